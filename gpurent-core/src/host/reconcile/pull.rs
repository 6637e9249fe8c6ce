//! Images that are fetched before anything is claimed for them.

use std::error::Error;

use futures_util::{FutureExt, select_biased};

use crate::clock::Sleep;
use crate::host::context::HostContext;
use crate::host::pulls;
use crate::host::pulls::{Outcome, ToPull};
use crate::host::reconcile::contain_panic::contained;
use crate::host::reconcile::step::with_causes;
use crate::runtime::{Progress, PullProgress};

/// Pulls an image for nobody's container yet, for as long as a rental may wait for one. Whoever asked for it waits no
/// longer than a moment.
pub(super) async fn pull(context: &HostContext, sleep: &dyn Sleep, wanted: ToPull) -> Outcome {
    /// Progress that nobody is told: the pull is of no rental.
    struct Untold;
    impl PullProgress for Untold {
        fn update(&self, _progress: Progress) {}
    }

    let mut prepared =
        std::pin::pin!(contained(context.runtime.prepare(&wanted.launch, wanted.login.as_ref(), &Untold)).fuse());
    let mut patience = sleep.sleep(pulls::LOCAL_IMAGE_TIMEOUT).fuse();
    let mut too_late = sleep.sleep(context.timing.provisioning.unsigned_abs()).fuse();
    loop {
        select_biased! {
            prepared = prepared => return match prepared {
                Ok(_) => Outcome::Here,
                Err(error) => {
                    tracing::warn!(image = %wanted.launch.image, error = &error as &dyn Error, "image not pulled");
                    if error.failure().is_some() { Outcome::Failed(with_causes(&error)) } else { Outcome::Unknown }
                }
            },
            () = too_late => return Outcome::Failed(format!("the image {} was not pulled in time", wanted.launch.image)),
            () = patience => if let Some(pulls) = &context.pulls {
                pulls.takes_its_time(wanted.id);
            },
        }
    }
}
