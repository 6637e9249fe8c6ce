//! The way up: fetch, create, start, verify.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::Arc;

use futures_util::{FutureExt, select_biased};

use crate::allocation::Holds;
use crate::clock::Moment;
use crate::host::context::HostContext;
use crate::host::reconcile::clock_mapping::{on_both_clocks, paid_from};
use crate::host::reconcile::step::{Step, StepError, Stepped, Trouble};
use crate::host::{AccessError, Update};
use crate::model::{Files, HostPort, Rental, RentalEvent, Secrets};
use crate::runtime::{Created, LaunchSpec, Progress, PullProgress, RuntimeError};
use crate::store::Deadline;

/// The time that a runtime may take beyond what it is given to verify access.
const VERIFY_SLACK: std::time::Duration = std::time::Duration::from_secs(15);

/// For how long a port is not given out that somebody outside the books was found to have: 10 minutes.
const PORT_QUARANTINE: std::time::Duration = std::time::Duration::from_secs(600);

struct Reporter<'a> {
    context: &'a HostContext,
    rental: Arc<Rental>,
}

impl PullProgress for Reporter<'_> {
    fn update(&self, progress: Progress) {
        self.context.feed.push(Update::Progress { rental: Arc::clone(&self.rental), progress });
    }
}

impl Step {
    /// Fetches what the container needs. May be dropped at any time.
    pub(in crate::host::reconcile) async fn prepare(self) -> Result<Stepped, StepError> {
        let progress = Reporter { context: &self.context, rental: Arc::clone(&self.rental) };
        let registry = match self.secrets().await {
            Ok(secrets) => secrets.registry,
            Err(Trouble::Step(error)) => return Err(error),
            Err(Trouble::Runtime(error)) => return self.give_up_or_retry(error).await,
        };
        let launch = LaunchSpec::of(&self.rental);
        match self.context.runtime.prepare(&launch, registry.as_ref(), &progress).await {
            Ok(prepared) if self.rental.spec().pin_image && self.rental.pinned().is_none() => {
                let Some(digest) = prepared.digest else {
                    let source = "it has no digest to be pinned to: it was never in a registry".into();
                    return self.give_up_or_retry(RuntimeError::ImageUnavailable { image: launch.image, source }).await;
                };
                let rental = self.record(RentalEvent::Pinned { digest }).await?;
                Ok(Stepped::Moved(Box::new(rental)))
            }
            Ok(_) => Ok(Stepped::Prepared),
            Err(error) => self.give_up_or_retry(error).await,
        }
    }

    pub(super) async fn create(&self) -> Result<Rental, Trouble> {
        let secrets = self.secrets().await?;
        self.lease.check()?;
        let created = self.context.runtime.create(&LaunchSpec::of(&self.rental), &secrets).await?;
        self.context.failpoints.pass("created-unrecorded");
        let Created { container, gpus_attached, is_new, image, files, copied_bytes } = created;
        if files == Files::Lost {
            tracing::warn!(rental = %self.rental.id(), "its last container is gone: it begins anew, without its files");
        }
        // One that was found may have started long ago.
        let at = is_new.then(|| self.context.clock.now());
        let event =
            RentalEvent::Created { container, gpus_attached, at, image: image.map(Box::new), files, copied_bytes };
        let rental = self.record(event).await?;
        self.context.failpoints.pass("created");
        Ok(rental)
    }

    pub(super) async fn secrets(&self) -> Result<Secrets, Trouble> {
        match self.context.secrets(self.rental.id()).await {
            Ok(Some(secrets)) => Ok(secrets),
            // Erased, because the rental has ended in between (its record then tells), or lost.
            Ok(None) => Err(RuntimeError::Refused("the rental's credential is gone".into()).into()),
            Err(AccessError::Store(error)) => Err(error.into()),
            Err(AccessError::Seal(error)) => Err(RuntimeError::Refused(Box::new(error)).into()),
        }
    }

    pub(super) async fn start(&self) -> Result<Rental, Trouble> {
        self.lease.check()?;
        let asked = self.context.clock.now();
        let started_at = match self.context.runtime.start(&LaunchSpec::of(&self.rental)).await {
            Ok(started_at) => crate::clock::to_micros(started_at),
            Err(RuntimeError::PortTaken { port, source }) => return self.relaunch(port, source).await,
            Err(error) => return Err(error.into()),
        };
        self.context.failpoints.pass("started-unrecorded");
        // It was started now, or (where a crash came in between) at some time after the claim.
        let not_before = if started_at >= asked.wall { &asked } else { self.rental.not_started_before() };
        let started = on_both_clocks(started_at, &self.context.clock.now(), not_before);
        let rental = self.record(RentalEvent::Started { started_at, started }).await?;
        self.context.failpoints.pass("started");
        Ok(rental)
    }

    /// Makes the container again with other ports, since another program has one of them: it is removed and made anew if
    /// the renter did not ask for that very one and it was not tried too often.
    pub(super) async fn relaunch(&self, port: HostPort, source: crate::error::BoxError) -> Result<Rental, Trouble> {
        let asked_for = self.rental.spec().ports.as_slice().iter().any(|wanted| wanted.host == Some(port));
        if asked_for || self.rental.relaunches() >= u64::from(self.context.timing.relaunches) {
            return Err(RuntimeError::PortTaken { port, source }.into());
        }
        tracing::warn!(rental = %self.rental.id(), %port, "port is taken by another program; launching again");
        let mut held = self.context.store.held(&self.context.host).await?;
        // Our own holds are given up with the same write, but a port that failed is not tried again.
        let own: BTreeSet<_> = self.rental.ports().iter().map(|binding| binding.host).collect();
        held.ports.retain(|held| !own.contains(held));
        held.ports.insert(port);
        let until = self.context.clock.now().instant().after(PORT_QUARANTINE);
        self.context.placement.quarantine.port(port, until);
        let ports = self.context.placement.ports(self.rental.launch().next(), self.rental.spec(), &held);
        let ports = ports.map_err(|why| RuntimeError::Refused(Box::new(why)))?;
        let rental = self.record(RentalEvent::Relaunched { ports }).await?;
        if rental.retained().is_some() {
            // It holds the files for the next one.
            return Ok(rental);
        }
        // It never ran. A crash before this line, or a failure of it, leaves it to the next observation.
        let removed = match self.lease.check() {
            Ok(()) => self.context.runtime.remove(self.rental.launch()).await,
            Err(lapsed) => Err(RuntimeError::Unavailable(Box::new(lapsed))),
        };
        if let Err(error) = removed {
            self.context.placement.quarantine.lost(self.rental.launch(), Holds::of(&self.rental));
            tracing::warn!(launch = %self.rental.launch(), error = &error as &dyn Error, "old container left for later");
        }
        Ok(rental)
    }

    pub(super) async fn verify(&self, within: std::time::Duration) -> Result<Rental, Trouble> {
        // A runtime bounds its own time; a rental that is neither ready nor given up would cost its GPU.
        let launch = LaunchSpec::of(&self.rental);
        // Whatever it was found to be, it was so then or later.
        let asked = self.context.clock.now();
        let mut verify = self.context.runtime.verify(&launch, within).fuse();
        let mut too_late = self.sleep.sleep(within + VERIFY_SLACK).fuse();
        select_biased! {
            verified = verify => verified?,
            () = too_late => return Err(RuntimeError::AccessTimeout(within).into()),
        }
        let paid_from = paid_from(&self.rental, &self.context.clock.now());
        self.keep_deadline(&self.rental, &paid_from, asked.clone()).await;
        self.context.failpoints.pass("ready-unrecorded");
        self.context.placement.quarantine.trust(self.rental.gpus());
        let rental = self.record(RentalEvent::Verified { paid_from: paid_from.clone() }).await?;
        if self.rental.spec().term.is_shorter_than(rental.spec().term) {
            // Extended while it was verified: the book knew nothing of it then.
            self.keep_deadline(&rental, &paid_from, asked).await;
        }
        self.context.failpoints.pass("ready");
        Ok(rental)
    }

    /// The host itself has to know the end, in case the store is away by then.
    pub(super) async fn keep_deadline(&self, rental: &Rental, paid_from: &Moment, last_seen: Moment) {
        let deadline = Deadline {
            launch: rental.launch(),
            paid_from: paid_from.clone(),
            term: rental.spec().term,
            used: rental.used_before(),
            last_seen,
        };
        if let Err(error) = self.context.deadlines.keep(deadline).await {
            // The store has it too. A host whose disk is full serves its tenants all the same.
            tracing::error!(rental = %self.rental.id(), error = &error as &dyn Error, "the end was not written down");
        }
    }
}
