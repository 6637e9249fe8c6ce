//! Lets happen what a history says: what renters ask of an agent, and what befalls machines and store.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use jiff::SignedDuration;

use crate::host::{RentError, Rentals, TermExtension};
use crate::id::{LaunchId, RentalId};
use crate::model::port::WEB;
use crate::model::{
    CredentialRequest, GpuRequest, MountPath, Password, PublishedPort, PublishedPorts, Rental, RentalRequest,
    RentalSpec, RentalState, Term, Workspace, WorkspaceFolder,
};
use crate::runtime::ContainerStatus;
use crate::testing::simulation::environment::{HostNo, ProcessId};
use crate::testing::simulation::oracle::Oracle;
use crate::testing::simulation::runner::{Run, SECOND, valid};
use crate::testing::simulation::schedule::{Action, LATEST};

impl Run {
    fn launch(&self, nth: u64) -> Option<(HostNo, LaunchId)> {
        let launches: Vec<_> = {
            let oracle = self.oracle();
            let each = oracle.hosts.iter().enumerate();
            each.flat_map(|(n, host)| {
                let running = host.engine.snapshot().into_iter().filter(|seen| seen.status == ContainerStatus::Running);
                let there = running.filter(|seen| oracle.lives(seen.launch));
                there.map(move |seen| (n, seen.launch)).collect::<Vec<_>>()
            })
            .collect()
        };
        launches.get(usize::try_from(nth).ok()?.checked_rem(launches.len())?).copied()
    }

    fn one_of(&self, nth: u64, which: impl Fn(&Rental) -> bool) -> Option<(HostNo, RentalId)> {
        let live: Vec<_> = self.store.all().into_iter().filter(which).collect();
        let rental = match nth {
            LATEST => live.iter().max_by_key(|rental| rental.created_at())?,
            nth => live.get(usize::try_from(nth).ok()?.checked_rem(live.len())?)?,
        };
        let host = self.hosts.iter().position(|host| host.id == *rental.host())?;
        Some((host, rental.id()))
    }

    pub(super) fn apply(&mut self, what: &Action) {
        let now = self.environment.now();
        self.environment.trace(|| format!("-- {what:?}"));
        match *what {
            Action::Rent { host, gpus, term_secs, key, times } => {
                for _ in 0..times {
                    self.rent(host, gpus, term_secs, key);
                }
            }
            Action::Cancel { nth } => {
                self.ask(nth, |rentals, id, _| async move { drop(rentals.cancel(id).await) }.boxed());
            }
            Action::Extend { nth, secs } => self.ask(nth, move |rentals, id, oracle| {
                async move {
                    let by = TermExtension::By(valid(Term::fixed(SignedDuration::from_secs(secs))));
                    // Who only waits to take over shares no book with who acts, outside of this world.
                    if !rentals.holds_lease() {
                        return;
                    }
                    oracle.lock().unwrap_or_else(PoisonError::into_inner).hopes(id, secs);
                    if let Ok(Some(rental)) = rentals.extend(id, by).await {
                        let term = rental.spec().term;
                        oracle.lock().unwrap_or_else(PoisonError::into_inner).promises_term(id, term);
                    }
                }
                .boxed()
            }),
            Action::ChangeAccess { nth } => self.ask(nth, |rentals, id, _| {
                let password = valid(Password::new("another-password".to_owned()));
                async move { drop(rentals.change_access(id, CredentialRequest::Password(password)).await) }.boxed()
            }),
            Action::Suspend { nth } => {
                self.ask(nth, |rentals, id, _| async move { drop(rentals.suspend(id).await) }.boxed());
            }
            Action::Resume { nth } => {
                let suspended = self.one_of(nth, |rental| matches!(rental.state(), RentalState::Suspended { .. }));
                self.ask_for(suspended, |rentals, id, _| async move { drop(rentals.resume(id).await) }.boxed());
            }
            Action::Exit { nth, out_of_memory } => {
                if let Some((host, launch)) = self.launch(nth) {
                    self.oracle().hosts[host].engine.exit(launch, 137, out_of_memory);
                    self.oracle().changed = true;
                }
            }
            Action::Fill { nth } => {
                if let Some((host, launch)) = self.launch(nth) {
                    self.oracle().fills(now, host, launch);
                }
            }
            Action::Lose { nth } => {
                if let Some((host, launch)) = self.launch(nth) {
                    self.oracle().loses(host, launch);
                }
            }
            Action::SetWallClock { host, secs } => self.environment.set_wall(host, SignedDuration::from_secs(secs)),
            Action::Reboot { host, down } => self.reboot(host, down),
            Action::EngineAway { host, lasts } => {
                self.oracle().engine_is_away(host, now, lasts);
                self.environment.trouble_until(host, now + lasts);
            }
            Action::EngineRestart { host, lasts } => {
                self.oracle().engine_is_away(host, now, lasts);
                self.environment.trouble_until(host, now + lasts);
                self.end_containers(host);
            }
            Action::StoreAway { lasts } => self.oracle().store_is_away(now, lasts),
            Action::StoreHangs { lasts } => self.oracle().store_hangs(now, lasts),
            Action::DiskFull { host, lasts } => {
                self.oracle().disk_is_full(host, now, now + lasts);
                // What was not written down is not known when the store is away: not before the next life.
                self.environment.trouble_until(host, i64::MAX / 2);
            }
            Action::Kill { host, down } => {
                if let Some(process) = self.agent(host) {
                    self.kill(process, down);
                }
            }
            Action::Terminate { host, down } => {
                if let Some(process) = self.agent(host) {
                    self.environment.trouble_until(host, now + 20 * SECOND);
                    self.hosts[host].down_until = now + down;
                    self.processes[process].shutdown.store(true, Ordering::Relaxed);
                    for task in self.tasks.iter().filter(|task| task.process == process) {
                        task.woken.0.store(true, Ordering::Relaxed);
                    }
                }
            }
            Action::Pause { host, lasts } => {
                if let Some(process) = self.agent(host) {
                    self.pause(process, now + lasts);
                }
            }
            Action::Rival { host, wakes } => {
                let Some(former) = self.agent(host) else { return };
                self.pause(former, now + wakes);
                self.processes[former].supervised = false;
                self.hosts[host].had_rivals = true;
                self.start(host, false, true);
                self.environment.trouble_until(host, now + wakes + 20 * SECOND);
            }
            Action::Backup => self.backup = Some(self.store.snapshot()),
            Action::Restore => {
                let Some(backup) = self.backup.clone() else { return };
                self.store.restore(backup);
                // It takes a while, in which nobody gets an answer; and two seconds later it is noticed.
                self.oracle().store_is_away(now, 3 * SECOND);
                self.deaf_until = now + 7 * SECOND;
                self.oracle().set_back(now);
            }
        }
    }

    fn pause(&mut self, process: ProcessId, until: i64) {
        let until = until.min(self.policy.chaos);
        let host = self.processes[process].host;
        self.processes[process].paused_until = until;
        let lasts = until - self.environment.now();
        self.oracle().hosts[host].unattended += lasts;
        self.environment.trouble_until(host, until);
        // Something happens when it goes on.
        self.environment.at(until, || {});
    }

    fn end_containers(&self, host: HostNo) {
        let mut oracle = self.oracle();
        for seen in
            oracle.hosts[host].engine.snapshot().into_iter().filter(|seen| seen.status == ContainerStatus::Running)
        {
            if oracle.lives(seen.launch) {
                oracle.hosts[host].engine.exit(seen.launch, 255, false);
            }
        }
        oracle.changed = true;
    }

    /// The engine comes back with the machine, and makes up an end for containers of which it has none.
    fn reboot(&mut self, host: HostNo, down: i64) {
        let now = self.environment.now();
        let processes: Vec<_> = (0..self.processes.len()).filter(|n| self.processes[*n].host == host).collect();
        for process in processes {
            self.kill(process, down);
        }
        let up = now + down;
        self.hosts[host].down_until = self.hosts[host].down_until.max(up);
        let mut oracle = self.oracle();
        oracle.engine_is_away(host, now, down);
        oracle.hosts[host].reboots += 1;
        oracle.machine_dies(&self.environment, host);
        drop(oracle);
        self.environment.trouble_until(host, up);
        let (environment, oracle) = (self.environment.clone(), Arc::clone(&self.oracle));
        self.environment.at(up, move || {
            environment.reboot(host);
            let mut oracle = oracle.lock().unwrap_or_else(PoisonError::into_inner);
            for seen in
                oracle.hosts[host].engine.snapshot().into_iter().filter(|seen| seen.status == ContainerStatus::Running)
            {
                oracle.hosts[host].engine.exit(seen.launch, 255, false);
            }
            oracle.changed = true;
        });
    }

    /// A request for one of the live rentals, handled by the host's agent.
    fn ask(
        &mut self,
        nth: u64,
        how: impl FnOnce(Rentals, RentalId, Arc<Mutex<Oracle>>) -> futures_util::future::BoxFuture<'static, ()>,
    ) {
        self.ask_for(self.one_of(nth, Rental::is_live), how);
    }

    fn ask_for(
        &mut self,
        whom: Option<(HostNo, RentalId)>,
        how: impl FnOnce(Rentals, RentalId, Arc<Mutex<Oracle>>) -> futures_util::future::BoxFuture<'static, ()>,
    ) {
        let Some((host, id)) = whom.filter(|_| self.environment.now() >= self.deaf_until) else { return };
        let Some(process) = self.agent(host) else { return };
        let rentals = self.processes[process].rentals.clone();
        let asked = how(rentals, id, Arc::clone(&self.oracle));
        self.spawn(process, asked);
    }

    fn rent(&mut self, host: HostNo, gpus: u8, term_secs: i64, key: Option<u8>) {
        let Some(process) = self.agent(host) else { return };
        let rentals = self.processes[process].rentals.clone();
        let oracle = Arc::clone(&self.oracle);
        let gpu = valid(GpuRequest::new(valid("RTX 5090".parse()), gpus));
        // The same key is always the same request.
        let secs = key.map_or(term_secs, |key| 20 + i64::from(key));
        let term = valid(Term::fixed(SignedDuration::from_secs(secs)));
        let gpu = if key.is_some() { GpuRequest::one(valid("RTX 5090".parse())) } else { gpu };
        let mut spec = RentalSpec::new(valid("renter".parse()), gpu, valid("image:1".parse()), term);
        spec.pin_image = secs % 3 == 0;
        // Two rentals of one renter share a folder.
        spec.workspace = (secs % 2 == 0)
            .then(|| Workspace { folder: WorkspaceFolder::of(&spec.renter), mount: MountPath::default() });
        if secs % 5 == 0 {
            spec.ports = valid(PublishedPorts::try_from(vec![PublishedPort::tcp(WEB, None)]));
        }
        let name = key.map(|key| format!("keyed-{host}-{key}"));
        spec.name = name.as_deref().map(|name| valid(name.parse()));
        let password = CredentialRequest::Password(valid(Password::new("first-password".to_owned())));
        let request = RentalRequest::new(spec, password);
        self.spawn(process, async move {
            let claimed = match name {
                Some(name) => rentals.rent_once(valid(name.parse()), request).await,
                None => rentals.rent(request).await,
            };
            let mut oracle = oracle.lock().unwrap_or_else(PoisonError::into_inner);
            match claimed {
                Ok(claimed) => {
                    let key = key.map(|key| key * 8 + u8::try_from(host).unwrap_or(0));
                    oracle.promises(claimed.rental().id(), key);
                }
                Err(RentError::KeyReused) if !oracle.restored => {
                    oracle.report_violation("I8: one request is taken for two".to_owned());
                }
                Err(_refused) => {}
            }
        });
    }
}
