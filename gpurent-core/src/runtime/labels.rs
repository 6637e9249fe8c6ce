//! Labels that a container carries, for every engine that knows labels: by them a host finds its containers again, tells
//! what each was made of, and makes a rental again that the store has lost.
//!
//! Their names and forms are frozen: containers outlive the version of the host that made them.

use std::collections::HashMap;

use crate::id::{Attempt, LaunchId};
use crate::model::Claim;
use crate::runtime::LaunchSpec;

/// The host that the container belongs to.
pub const HOST: &str = "io.gpurent.host";
/// The rental that the container was made for.
pub const RENTAL: &str = "io.gpurent.rental";
/// Which of the rental's launches the container was made for.
const ATTEMPT: &str = "io.gpurent.attempt";
/// The [hash](LaunchSpec::hash) of what the container was made of.
const HASH: &str = "io.gpurent.spec-hash";
/// The claim that the container was made for, as JSON and without the renter's environment.
const CLAIM: &str = "io.gpurent.claim";
/// Whether the engine attached the container's GPUs.
const GPUS: &str = "io.gpurent.gpus-attached";
/// The beginning of the names of a renter's labels: other programs of the machine believe labels of containers.
const OF_THE_RENTER: &str = "io.gpurent.label.";

/// The labels of a launch's container.
#[must_use]
pub fn of(launch: &LaunchSpec, gpus_attached: bool) -> HashMap<String, String> {
    let of_the_renter = launch.labels.iter().map(|(name, value)| (format!("{OF_THE_RENTER}{name}"), value.to_owned()));
    let ours = [
        (HOST, launch.host.to_string()),
        (RENTAL, launch.id.rental.to_string()),
        (ATTEMPT, launch.id.attempt.to_string()),
        (HASH, launch.hash()),
        (GPUS, gpus_attached.to_string()),
    ];
    let mut labels: HashMap<String, String> = of_the_renter.collect();
    labels.extend(ours.map(|(name, value)| (name.to_owned(), value)));
    if let Some(claim) = &launch.claim {
        // A struct of strings and numbers always has a JSON form.
        labels.insert(CLAIM.to_owned(), serde_json::to_string(claim).unwrap_or_default());
    }
    labels
}

/// The launch that a container was made for; `None`: the container is not one of ours.
#[must_use]
pub fn launch_of(labels: &HashMap<String, String>) -> Option<LaunchId> {
    let rental = labels.get(RENTAL)?.parse().ok()?;
    let attempt = Attempt::new(labels.get(ATTEMPT)?.parse().ok()?);
    Some(LaunchId { rental, attempt })
}

/// The claim that a container was made for, if it tells one that this version understands.
#[must_use]
pub fn claim_of(labels: &HashMap<String, String>) -> Option<Box<Claim>> {
    serde_json::from_str(labels.get(CLAIM)?).ok()
}

/// Whether the engine attached the container's GPUs.
#[must_use]
pub fn gpus_attached(labels: &HashMap<String, String>) -> bool {
    labels.get(GPUS).is_some_and(|value| value == "true")
}

/// Whether a container was made of the same as this launch's would be, by whichever of the rental's launches.
#[must_use]
pub fn is_made_of(labels: &HashMap<String, String>, launch: &LaunchSpec) -> bool {
    let Some(made_for) = launch_of(labels).filter(|made_for| made_for.rental == launch.id.rental) else { return false };
    labels.get(HASH) == Some(&LaunchSpec { id: made_for, ..launch.clone() }.hash())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::RentalId;
    use crate::model::rental::tests::claimed;

    fn launch() -> LaunchSpec {
        let (rental, _) = claimed();
        LaunchSpec { claim: Some(Box::new(rental.claim())), ..LaunchSpec::of(&rental) }
    }

    #[test]
    fn what_a_container_carries_is_read_again() {
        let launch = launch();
        let labels = of(&launch, true);
        assert_eq!(launch_of(&labels), Some(launch.id));
        assert_eq!(claim_of(&labels), launch.claim);
        assert!(gpus_attached(&labels) && !gpus_attached(&of(&launch, false)));
    }

    #[test]
    fn a_later_launch_of_the_same_is_made_of_the_same() {
        let launch = launch();
        let labels = of(&launch, true);
        let next = LaunchId { attempt: Attempt::new(launch.id.attempt.get() + 1), ..launch.id };
        let later = LaunchSpec { id: next, ..launch };
        assert!(is_made_of(&labels, &later));
        let other = LaunchSpec { image: "b:1".parse().unwrap(), ..later.clone() };
        assert!(!is_made_of(&labels, &other));
        let id = LaunchId { rental: RentalId::generate(), ..later.id };
        assert!(!is_made_of(&labels, &LaunchSpec { id, ..later }), "another rental's");
    }

    #[test]
    fn a_renter_can_forge_no_label_of_the_host() {
        let mut launch = launch();
        launch.labels =
            std::collections::BTreeMap::from([("io.other.rental".to_owned(), "1".to_owned())]).try_into().unwrap();
        let labels = of(&launch, false);
        assert_eq!(labels.get("io.gpurent.label.io.other.rental").map(String::as_str), Some("1"));
        assert!(labels.keys().all(|name| name.starts_with("io.gpurent.")));
    }

    #[test]
    fn labels_keep_the_names_that_earlier_versions_gave_them() {
        let mut names: Vec<_> = of(&launch(), true).into_keys().collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "io.gpurent.attempt",
                "io.gpurent.claim",
                "io.gpurent.gpus-attached",
                "io.gpurent.host",
                "io.gpurent.rental",
                "io.gpurent.spec-hash",
            ]
        );
    }
}
