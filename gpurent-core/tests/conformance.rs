//! The fakes pass the suites that the real backends pass.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod store {
    use gpurent_core::memory::MemoryStore;

    gpurent_core::store_suite!(futures_executor::block_on, || async { MemoryStore::default() });
    gpurent_core::key_suite!(futures_executor::block_on, || async { MemoryStore::default() });
    gpurent_core::range_suite!(futures_executor::block_on, || async { MemoryStore::default() });
    gpurent_core::audit_suite!(futures_executor::block_on, || async { MemoryStore::default() });
}

mod runtime {
    use std::sync::Arc;

    use async_trait::async_trait;
    use gpurent_core::memory::{ManualClock, MemoryRuntime};
    use gpurent_core::model::Credential;
    use gpurent_core::runtime::LaunchSpec;
    use gpurent_core::testing::runtime_suite::{Fixture, RenterView};

    struct Inside(Arc<MemoryRuntime>);

    #[async_trait]
    impl RenterView for Inside {
        async fn gets_in(&self, launch: &LaunchSpec, credential: &Credential) -> bool {
            self.0.lets_in(launch.id, credential)
        }

        async fn reads(&self, launch: &LaunchSpec) -> String {
            self.0.announced(launch.id).join("\n")
        }

        async fn program_ends(&self, launch: &LaunchSpec) -> bool {
            self.0.has_finished(launch.id)
        }

        async fn print(&self, launch: &LaunchSpec, line: &str) {
            self.0.print(launch.id, line);
        }
    }

    gpurent_core::runtime_suite!(futures_executor::block_on, || async {
        let runtime = Arc::new(MemoryRuntime::new(ManualClock::new()));
        Fixture {
            renter: Arc::new(Inside(runtime.clone())),
            runtime,
            image: "busybox:1".parse().unwrap(),
            ssh_port: 22000.try_into().unwrap(),
        }
    });
}

mod allocator {
    use gpurent_core::allocation::BestFit;

    gpurent_core::allocator_suite!(|| BestFit);
}

mod clock {
    use gpurent_core::clock::SystemClock;

    gpurent_core::clock_suite!(SystemClock::new);
}

mod manual_clock {
    use gpurent_core::memory::ManualClock;

    gpurent_core::clock_suite!(ManualClock::new);
}

mod sealer {
    use gpurent_core::model::SealKey;

    gpurent_core::sealer_suite!(|| SealKey::generate().0);
}

mod gpu_probe {
    use gpurent_core::memory::SimulatedGpus;

    gpurent_core::gpu_probe_suite!(futures_executor::block_on, || {
        SimulatedGpus::new(&"host".parse().unwrap(), 8, "RTX 5090".parse().unwrap())
    });
}

mod deadline_book {
    use gpurent_core::memory::MemoryDeadlines;

    gpurent_core::deadline_book_suite!(futures_executor::block_on, || {
        let book = MemoryDeadlines::default();
        move || book.clone()
    });
}
