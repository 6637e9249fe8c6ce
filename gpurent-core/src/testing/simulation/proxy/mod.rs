//! The store, the engine and the book as a process sees them: behind a line on which everything takes time
//! and anything can go wrong. A request that was sent arrives, whether or not its sender still waits.

mod deadlines;
mod runtime;
mod store;

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

pub(in crate::testing::simulation) use deadlines::FaultyBook;
pub(in crate::testing::simulation) use runtime::FaultyRuntime;
pub(in crate::testing::simulation) use store::FaultyStore;

use crate::id::{HostId, RentalId};
use crate::memory::MemoryStore;
use crate::model::Phase;
use crate::store::Store;
use crate::testing::simulation::environment::{About, Environment, HostNo, ProcessId, at_once};
use crate::testing::simulation::fault_point::{FaultPoint, SimFault};
use crate::testing::simulation::oracle::Oracle;

/// One process's line to what is outside.
#[derive(Clone)]
pub(in crate::testing::simulation) struct FaultProxy {
    pub(in crate::testing::simulation) environment: Environment,
    pub(in crate::testing::simulation) oracle: Arc<Mutex<Oracle>>,
    pub(in crate::testing::simulation) store: Arc<MemoryStore>,
    pub(in crate::testing::simulation) process: ProcessId,
    pub(in crate::testing::simulation) host: HostNo,
    pub(in crate::testing::simulation) host_id: HostId,
}

/// Where an answer arrives.
struct Answer<T>(Arc<Mutex<(Option<T>, Option<Waker>)>>);

impl<T> Clone for Answer<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Send + 'static> Answer<T> {
    fn new() -> Self {
        Self(Arc::new(Mutex::new((None, None))))
    }

    fn give(&self, value: T) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The first one counts; a request that was sent twice is answered once.
        slot.0.get_or_insert(value);
        if let Some(waker) = slot.1.take() {
            waker.wake();
        }
    }

    async fn wait(&self) -> T {
        poll_fn(|context| {
            let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match slot.0.take() {
                Some(value) => Poll::Ready(value),
                None => {
                    slot.1 = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

impl FaultProxy {
    pub(in crate::testing::simulation) fn oracle(&self) -> std::sync::MutexGuard<'_, Oracle> {
        self.oracle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn about_host(&self) -> About {
        let live = at_once(self.store.live(&self.host_id)).unwrap_or_default();
        let mut phases: Vec<Phase> = live.iter().map(|rental| rental.state().phase()).collect();
        phases.sort_unstable();
        phases.dedup();
        About { process: self.process, host: self.host, phases, what: String::new() }
    }

    fn about(&self, rental: RentalId, what: impl FnOnce() -> String) -> About {
        let found = at_once(self.store.get(rental)).unwrap_or_default();
        let what = if self.environment.is_traced() {
            format!("{} {}", self.oracle().name(rental), what())
        } else {
            String::new()
        };
        About {
            process: self.process,
            host: self.host,
            phases: found.iter().map(|rental| rental.state().phase()).collect(),
            what,
        }
    }

    async fn call<T: Send + 'static>(
        &self,
        point: FaultPoint,
        about: About,
        mut effect: impl FnMut() -> T + Send + 'static,
        trouble: impl Fn(&'static str) -> T + Send + 'static,
        refused: impl FnOnce() -> T,
    ) -> T {
        let (call, fault) = self.environment.fault(point, &about);
        if fault.is_some() && point.is_book() {
            // What was seen may not have been written down, or not be read: then it is paid for its start.
            self.oracle().hosts[self.host].unattended += 1_000_000_000;
        }
        if let (FaultPoint::Observe, Some(SimFault::Hang(lasts) | SimFault::HangAfter(lasts) | SimFault::Slow(lasts))) =
            (point, fault)
        {
            self.oracle().hosts[self.host].unattended += lasts;
        }
        let fault = self.oracle().outage(&self.environment, point, self.host).or(fault);
        let (there, back) = self.environment.latency(call);
        let answer = Answer::new();
        let (environment, oracle) = (self.environment.clone(), Arc::clone(&self.oracle));
        let now = environment.now();
        // What arrives is seen by everybody at once.
        let mut arrive = move || {
            let value = effect();
            oracle.lock().unwrap_or_else(PoisonError::into_inner).changed = true;
            value
        };
        let tell = |at: i64, value: T| {
            let answer = answer.clone();
            environment.at(at, move || answer.give(value));
        };
        match fault {
            None | Some(SimFault::Slow(_)) => {
                let there = if let Some(SimFault::Slow(micros)) = fault { micros } else { there };
                let (answer, environment2) = (answer.clone(), environment.clone());
                environment.at(now + there, move || {
                    let value = arrive();
                    environment2.clone().at(environment2.now() + back, move || answer.give(value));
                });
            }
            Some(SimFault::Before) => tell(now + there, trouble("nothing happened")),
            Some(SimFault::After) => {
                let (answer, environment2) = (answer.clone(), environment.clone());
                environment.at(now + there, move || {
                    drop(arrive());
                    environment2
                        .clone()
                        .at(environment2.now() + back, move || answer.give(trouble("the answer was lost")));
                });
            }
            Some(SimFault::Late(late)) => {
                tell(now + there, trouble("it did not answer in time"));
                environment.at(now + there + late, move || drop(arrive()));
            }
            Some(SimFault::Hang(micros)) => tell(now + micros, trouble("nobody answered")),
            Some(SimFault::HangAfter(micros)) => {
                environment.at(now + there, move || drop(arrive()));
                tell(now + there + micros, trouble("nobody answered"));
            }
            Some(SimFault::Twice(later)) => {
                let (answer, environment2) = (answer.clone(), environment.clone());
                environment.at(now + there, move || {
                    let value = arrive();
                    environment2.clone().at(environment2.now() + back, move || answer.give(value));
                    let again = environment2.now() + later;
                    environment2.at(again, move || drop(arrive()));
                });
            }
            Some(SimFault::Refused) => tell(now + there, refused()),
            // Not by `panic!`, which would be printed thousands of times.
            Some(SimFault::Panic) => std::panic::resume_unwind(Box::new("a scripted panic")),
            Some(SimFault::CrashBefore) => self.environment.kill(self.process),
            Some(SimFault::CrashDone) => {
                let (environment2, process) = (environment.clone(), self.process);
                environment.at(now + there, move || {
                    drop(arrive());
                    environment2.kill(process);
                });
            }
            Some(SimFault::CrashAfter) => {
                let (answer, environment2, process) = (answer.clone(), environment.clone(), self.process);
                environment.at(now + there, move || {
                    let value = arrive();
                    let heard = environment2.now() + back;
                    let environment3 = environment2.clone();
                    environment2.at(heard, move || {
                        answer.give(value);
                        // Just after the answer was taken in.
                        environment3.clone().at(heard, move || environment3.kill(process));
                    });
                });
            }
        }
        answer.wait().await
    }
}
