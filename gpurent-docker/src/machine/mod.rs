//! The machine around the engine: its GPUs, disks, ports and load, and the files that the agent keeps on it. Nothing here
//! speaks to Docker.

pub(crate) mod deadline_file;
pub(crate) mod disk;
pub(crate) mod engine_lock;
#[cfg(feature = "nvml")]
pub(crate) mod gpus;
pub(crate) mod load;
pub(crate) mod ports;
pub(crate) mod private_file;
pub(crate) mod workspaces;
