//! A machine in memory, with images that come and go.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::model::ImageRef;
use crate::runtime::{Image, Images, MachineLoad, MachineProbe, RemoveImageError, RuntimeError};

/// A machine for tests. Its copies are the same machine.
#[derive(Clone, Default)]
pub struct MemoryMachine {
    images: Arc<Mutex<Vec<Image>>>,
}

impl MemoryMachine {
    fn images(&self) -> MutexGuard<'_, Vec<Image>> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an image on the machine of which there are so many containers.
    pub fn put(&self, name: &str, containers: u32) {
        let mut images = self.images();
        let id = format!("sha256:{:064}", images.len() + 1);
        let (tags, architecture) = (vec![name.to_owned()], "amd64".to_owned());
        images.push(Image { id, tags, size: 1 << 30, architecture, containers, ..Image::default() });
    }
}

fn is_it(image: &Image, name: &str) -> bool {
    image.id == name || image.tags.iter().any(|tag| tag == name)
}

#[async_trait]
impl MachineProbe for MemoryMachine {
    async fn load(&self) -> MachineLoad {
        MachineLoad {
            cpu_percent: 45.2,
            cpu_count: 16,
            memory_percent: 62.5,
            memory_total: 16_000_000_000,
            memory_available: 6_000_000_000,
            disk_percent: 55.0,
            disk_total: 500_000_000_000,
            disk_free: 225_000_000_000,
            uptime_seconds: 3600,
        }
    }
}

#[async_trait]
impl Images for MemoryMachine {
    async fn images(&self) -> Result<Vec<Image>, RuntimeError> {
        Ok(Self::images(self).clone())
    }

    async fn image(&self, name: &str) -> Result<Option<Image>, RuntimeError> {
        Ok(Self::images(self).iter().find(|image| is_it(image, name)).cloned())
    }

    async fn remove_image(&self, name: &str, _force: bool) -> Result<(), RemoveImageError> {
        let mut images = Self::images(self);
        let place = images.iter().position(|image| is_it(image, name)).ok_or(RemoveImageError::NotThere)?;
        if images[place].containers > 0 {
            return Err(RemoveImageError::InUse);
        }
        images.remove(place);
        Ok(())
    }

    async fn fetch(&self, image: &ImageRef) -> Result<(), RuntimeError> {
        self.put(image.as_str(), 0);
        Ok(())
    }
}
