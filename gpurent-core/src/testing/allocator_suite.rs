//! The clauses that every [`Allocator`] has to keep, whatever its policy.

use std::collections::BTreeSet;
use std::num::NonZeroU8;

use crate::allocation::{AllocationRequest, Allocator, Holds};
use crate::memory::SimulatedGpus;
use crate::model::{Gpu, GpuRequest, RentalSpec, Term};
use crate::testing::valid;

/// Makes one test of every clause: `allocator_suite!(MAKE)`. `MAKE` is called for each test and gives an allocator.
#[macro_export]
macro_rules! allocator_suite {
    ($make:expr) => {
        $crate::allocator_suite!(@clauses $make;
            as_many_gpus_are_chosen_as_are_asked_for,
            only_gpus_that_answer_to_the_request_are_chosen,
            the_same_question_has_the_same_answer,
        );
    };
    (@clauses $make:expr; $($clause:ident),* $(,)?) => {
        $(
            #[test]
            fn $clause() {
                $crate::testing::allocator_suite::$clause(&($make)());
            }
        )*
    };
}

/// Four GPUs of each of two models, and every request that they could be asked with.
struct Bench {
    gpus: Vec<Gpu>,
    requests: Vec<GpuRequest>,
}

impl Bench {
    fn new() -> Self {
        let host = valid("host".parse());
        let mut gpus = SimulatedGpus::new(&host, 4, valid("RTX 5090".parse())).gpus().to_vec();
        let others = SimulatedGpus::new(&valid("other".parse()), 4, valid("A100 80GB".parse()));
        gpus.extend((4..).zip(others.gpus()).map(|(at, gpu)| Gpu { index: at, ..gpu.clone() }));
        let selectors = ["RTX 5090", "A100", "any", gpus[6].uuid.as_str()];
        let request = |selector: &str, count| {
            let count = NonZeroU8::new(count).map_or(1, NonZeroU8::get);
            GpuRequest::new(valid(selector.parse()), count).ok()
        };
        let requests = selectors.iter().flat_map(|selector| (1..=8).filter_map(move |count| request(selector, count)));
        Self { requests: requests.collect(), gpus }
    }

    /// Asks with every request, for more and more GPUs that are taken.
    fn each(&self, allocator: &impl Allocator, mut check: impl FnMut(&GpuRequest, &[&Gpu], Option<Vec<&Gpu>>)) {
        for (renter, wanted) in
            ["ada", "grace"].into_iter().flat_map(|renter| self.requests.iter().map(move |r| (renter, r)))
        {
            let image = valid("a:1".parse());
            let spec = RentalSpec::new(valid(renter.parse()), wanted.clone(), image, valid(Term::hours(1)));
            for taken in 0..=self.gpus.len() {
                let held =
                    Holds { gpus: self.gpus[..taken].iter().map(|gpu| gpu.uuid.clone()).collect(), ..Holds::default() };
                let free: Vec<&Gpu> = self.gpus[taken..].iter().collect();
                let request = AllocationRequest::new(&spec, wanted, &self.gpus, &held);
                // A store may ask several times for one rental.
                let (chosen, again) = (allocator.choose(&request, &free), allocator.choose(&request, &free));
                assert_eq!(chosen, again, "the same question has the same answer");
                check(wanted, &free, chosen);
            }
        }
    }
}

/// The chosen GPUs are as many different ones as are asked for, all of them free.
pub fn as_many_gpus_are_chosen_as_are_asked_for(allocator: &impl Allocator) {
    let mut is_ever_chosen = false;
    Bench::new().each(allocator, |wanted, free, chosen| {
        let Some(chosen) = chosen else { return };
        is_ever_chosen = true;
        let distinct: BTreeSet<_> = chosen.iter().map(|gpu| &gpu.uuid).collect();
        assert_eq!((chosen.len(), distinct.len()), (usize::from(wanted.count.get()), chosen.len()), "{wanted:?}");
        assert!(chosen.iter().all(|gpu| free.iter().any(|free| free.uuid == gpu.uuid)), "{wanted:?}");
    });
    assert!(is_ever_chosen, "somebody gets something");
}

/// The chosen GPUs are of the kind that was asked for.
pub fn only_gpus_that_answer_to_the_request_are_chosen(allocator: &impl Allocator) {
    Bench::new().each(allocator, |wanted, _, chosen| {
        assert!(chosen.iter().flatten().all(|gpu| wanted.selector.matches(gpu)), "{wanted:?}: {chosen:?}");
    });
}

/// A store may ask several times for one rental: the answer follows from the question alone.
pub fn the_same_question_has_the_same_answer(allocator: &impl Allocator) {
    let answers = || {
        let mut answers = Vec::new();
        Bench::new().each(allocator, |_, _, chosen| {
            answers.push(chosen.map(|gpus| gpus.into_iter().map(|gpu| gpu.uuid.clone()).collect::<Vec<_>>()));
        });
        answers
    };
    assert_eq!(answers(), answers());
}
