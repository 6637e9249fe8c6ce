//! What a tenant writes on the host's disk is seen, wherever it is.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something did not happen")]

mod support;

use gpurent_core::allocation::Written;
use gpurent_core::model::DiskUse;
use gpurent_core::runtime::ContainerRuntime;
use support::{Tenant, docker, image, launch, password};

const IDLE: &str = r#"CMD ["/bin/busybox", "sleep", "1000"]"#;
const MIB: u64 = 1024 * 1024;

impl Tenant {
    async fn uses(&self, most: DiskUse) -> DiskUse {
        let most = Written { container: most, workspace: most };
        self.runtime.disk_use(&self.launch, most).await.unwrap().sum()
    }

    /// Has a shell in the container do something.
    async fn does(&self, what: &str) {
        docker(&["exec", &self.container, "/bin/busybox", "sh", "-c", what]).await;
    }
}

#[tokio::test]
async fn what_a_tenant_writes_is_seen_wherever_it_is() {
    let name = image::Image::busybox("disk").says("VOLUME /data").says(IDLE).made().await;
    let tenant = Tenant::up(launch(&name), &password()).await;
    let before = tenant.uses(DiskUse::MAX).await;
    let mut seen = before.bytes;
    let mut grows = |used: DiskUse, by: u64, what: &str| {
        let more = used.bytes.saturating_sub(seen);
        assert!(((by * MIB).saturating_sub(MIB / 16)..(by + 4) * MIB).contains(&more), "{what}: {more} bytes more");
        seen = used.bytes;
    };
    let write = |path: &str, mib: u64| format!("busybox dd if=/dev/zero of={path} bs=1M count={mib}");
    tenant.does(&write("/layer", 8)).await;
    grows(tenant.uses(DiskUse::MAX).await, 8, "in the layer");
    tenant.does(&write("/data/volume", 9)).await;
    grows(tenant.uses(DiskUse::MAX).await, 9, "in a volume of the image");
    tenant.does(&format!("busybox mkdir -p /a/b/c; {}; busybox ln -s / /a/b/c/root", write("/a/b/c/deeper", 5))).await;
    grows(tenant.uses(DiskUse::MAX).await, 5, "in a folder, and a link to everything");
    // It has no name any more, and goes on growing.
    let hidden = format!(
        "(busybox sh -c 'exec 3>/hidden; busybox rm /hidden; {} ; busybox touch /tmp/written; busybox sleep 600' &); until [ -e /tmp/written ]; do busybox sleep 0.1; done",
        write("/proc/self/fd/3", 7)
    );
    tenant.does(&hidden).await;
    grows(tenant.uses(DiskUse::MAX).await, 7, "deleted, and still open");
    tenant.does(&write("/etc/hosts", 4)).await;
    grows(tenant.uses(DiskUse::MAX).await, 4, "a file that the engine itself mounts");
    tenant.does(&write("/dev/shm/memory", 6)).await;
    grows(tenant.uses(DiskUse::MAX).await, 0, "in memory, which is no disk");
    tenant.does("busybox rm /layer").await;
    assert!(tenant.uses(DiskUse::MAX).await.bytes < seen - 7 * MIB, "what is gone is gone");
    let most = DiskUse { bytes: 4 * MIB, files: 1000 };
    assert_eq!(tenant.uses(most).await.bytes, 4 * MIB, "no further than that");
    tenant.gone().await;
}
