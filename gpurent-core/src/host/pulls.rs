//! Images that are pulled before anything is claimed for them, where the operator wants that: a GPU then works, or is free,
//! while a registry takes its time.
//!
//! Who rents by an image that is not known to be here hears that it is being pulled, and asks again. The reconciler pulls, as
//! it does everything on the engine; what is kept of it is bounded, and forgotten after a moment: the engine knows what it
//! has.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use event_listener::Event;
use sha2::{Digest, Sha256};

use crate::clock::{BootInstant, Moment};
use crate::host::notify::{Mutex, listen};
use crate::id::{HostId, LaunchId, RenterId};
use crate::model::{ImageRef, RegistryLogin, RentalSpec};
use crate::runtime::LaunchSpec;

/// How many images are known of at once; of one renter's, how many are being pulled.
const MOST: usize = 512;
const MOST_OF_ONE_RENTER: usize = 4;
/// How many are looked for at once. Each of those is known after [`LOCAL_IMAGE_TIMEOUT`] to be here or not.
const MAX_CONCURRENT_LOOKUPS: usize = 64;
/// How long somebody waits for an image that may be here already.
pub(crate) const LOCAL_IMAGE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long it is remembered that an image is here, and that it could not be pulled.
const HERE: Duration = Duration::from_secs(60);
const FAILED: Duration = Duration::from_secs(30);

/// The identity of a pull: an image by name and login.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PullId([u8; 32]);

impl PullId {
    fn of(spec: &RentalSpec, login: Option<&RegistryLogin>) -> Self {
        let mut hash = Sha256::new();
        let login = login.map_or((Vec::new(), Vec::new()), |login| {
            (login.username().as_bytes().to_vec(), login.expose().as_bytes().to_vec())
        });
        for part in [spec.renter.as_str().as_bytes(), spec.image.as_str().as_bytes(), &login.0, &login.1] {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }
}

enum State {
    /// The image was asked for.
    Wanted { login: Option<RegistryLogin> },
    /// The engine is being asked for it.
    Sought,
    /// The engine does not have it, and pulls it.
    Pulled,
    /// The engine has it, or cannot have it; that is believed until this time on the boot clock.
    Known { until: BootInstant, result: Result<(), String> },
}

struct Entry {
    renter: RenterId,
    image: ImageRef,
    state: State,
}

impl Entry {
    fn is_under_way(&self) -> bool {
        !matches!(self.state, State::Known { .. })
    }
}

/// An answer to who asks for an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pull {
    /// The image is here.
    Here,
    /// The image is being pulled: ask later.
    UnderWay,
    /// The image cannot be had, and why.
    Failed(String),
}

/// A result of a look for an image.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The image is here.
    Here,
    /// The image cannot be had, and why, for the renter.
    Failed(String),
    /// Something does not answer: nothing is known.
    Unknown,
}

/// The images that were asked for, and what is known of them.
pub(crate) struct Pulls {
    entries: Mutex<BTreeMap<PullId, Entry>>,
    changed: Event,
}

/// An image that the reconciler is to pull.
pub(crate) struct ToPull {
    pub(crate) id: PullId,
    pub(crate) launch: LaunchSpec,
    pub(crate) login: Option<RegistryLogin>,
}

impl Pulls {
    pub(crate) fn new() -> Self {
        Self { entries: Mutex::new(BTreeMap::new()), changed: Event::new() }
    }

    fn with<T>(&self, look: impl FnOnce(&mut BTreeMap<PullId, Entry>) -> T) -> T {
        look(&mut self.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks for an image. `wake` tells the reconciler that there is something to pull; it lets nobody wait for longer than
    /// [`LOCAL_IMAGE_TIMEOUT`].
    pub(crate) async fn ask(
        &self,
        spec: &RentalSpec,
        login: Option<&RegistryLogin>,
        now: &Moment,
        wake: impl Fn(),
    ) -> Pull {
        let id = PullId::of(spec, login);
        if !self.want(id, spec, login, now.instant()) {
            return Pull::UnderWay;
        }
        wake();
        loop {
            let listener = listen(&self.changed);
            let known = self.with(|entries| match entries.get(&id).map(|entry| &entry.state) {
                Some(State::Wanted { .. } | State::Sought) => None,
                Some(State::Known { result: Ok(()), .. }) => Some(Pull::Here),
                Some(State::Known { result: Err(why), .. }) => Some(Pull::Failed(why.clone())),
                Some(State::Pulled) | None => Some(Pull::UnderWay),
            });
            match known {
                Some(known) => return known,
                None => listener.await,
            }
        }
    }

    /// Whether it is known of now; not where too much is.
    fn want(&self, id: PullId, spec: &RentalSpec, login: Option<&RegistryLogin>, now: BootInstant) -> bool {
        self.with(|entries| {
            entries.retain(|_, entry| !matches!(entry.state, State::Known { until, .. } if until <= now));
            if entries.contains_key(&id) {
                return true;
            }
            let theirs = entries.values().filter(|entry| entry.renter == spec.renter && entry.is_under_way());
            if theirs.count() >= MOST_OF_ONE_RENTER {
                return false;
            }
            if entries.len() >= MOST {
                // What is known can be found out again.
                entries.retain(|_, entry| entry.is_under_way());
            }
            if entries.len() >= MOST {
                return false;
            }
            let state = State::Wanted { login: login.cloned() };
            entries.insert(id, Entry { renter: spec.renter.clone(), image: spec.image.clone(), state });
            true
        })
    }

    /// Takes what is to be pulled, as much as may be at once.
    pub(crate) fn take(&self, host: &HostId, launch: impl Fn() -> LaunchId) -> Vec<ToPull> {
        self.with(|entries| {
            let busy = entries.values().filter(|entry| matches!(entry.state, State::Sought)).count();
            let wanted = entries.iter_mut().filter_map(|(id, entry)| match &mut entry.state {
                State::Wanted { login } => {
                    let launch = LaunchSpec::of_an_image(launch(), host.clone(), entry.image.clone());
                    let login = login.take();
                    entry.state = State::Sought;
                    Some(ToPull { id: *id, launch, login })
                }
                _ => None,
            });
            wanted.take(MAX_CONCURRENT_LOOKUPS.saturating_sub(busy)).collect()
        })
    }

    /// Records that an image is not here: nobody waits for it any longer.
    pub(crate) fn takes_its_time(&self, id: PullId) {
        self.with(|entries| {
            if let Some(entry) = entries.get_mut(&id).filter(|entry| matches!(entry.state, State::Sought)) {
                entry.state = State::Pulled;
            }
        });
        self.changed.notify(usize::MAX);
    }

    /// Drops what nobody has begun: no process acts for the host now. Those who wait ask again.
    pub(crate) fn put_off(&self) {
        self.with(|entries| entries.retain(|_, entry| !matches!(entry.state, State::Wanted { .. })));
        self.changed.notify(usize::MAX);
    }

    /// The reconciler is gone, and what it pulled with it.
    pub(crate) fn forget(&self) {
        self.with(BTreeMap::clear);
        self.changed.notify(usize::MAX);
    }

    /// Records an outcome; where that is not known, the image is asked for again.
    pub(crate) fn done(&self, id: PullId, outcome: Outcome, now: &Moment) {
        let known = |result: Result<(), String>, lasts| State::Known { until: now.instant().after(lasts), result };
        self.with(|entries| match outcome {
            Outcome::Unknown => drop(entries.remove(&id)),
            Outcome::Here => drop(entries.get_mut(&id).map(|entry| entry.state = known(Ok(()), HERE))),
            Outcome::Failed(why) => drop(entries.get_mut(&id).map(|entry| entry.state = known(Err(why), FAILED))),
        });
        self.changed.notify(usize::MAX);
    }
}
