//! The CPUs, the memory and the processes that a machine rents out, and how they are divided.

use crate::allocation::Part;
use crate::error::ValidationError;
use crate::model::ContainerLimits;

/// The CPUs, the memory and the processes of a machine that are for those who rent it, and how they are divided.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Thousandths of a CPU.
    pub milli_cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub processes: u32,
    /// Whether each rental may have [its part](crate::allocation::Division) of it alone; otherwise each may have all of it.
    pub divided: bool,
}

impl Capacity {
    /// Checks what a rental asks for that has this part of the machine.
    pub(super) fn check(&self, limits: &ContainerLimits, part: Part) -> Result<(), ValidationError> {
        let part = if self.divided { part } else { Part::WHOLE };
        let expect = |field: &str, asked: Option<u64>, all: u64| {
            let most = part.of(all);
            match asked {
                Some(asked) if asked > all => Err(ValidationError::new(field, "is more than this host has")),
                Some(asked) if asked > most => Err(ValidationError::new(
                    field,
                    format!("must be at most {most} on this host for the GPUs asked for"),
                )),
                _ => Ok(()),
            }
        };
        expect("cpus", limits.milli_cpus().map(u64::from), self.milli_cpus.into())?;
        expect("memory", limits.memory_bytes(), self.memory_bytes)?;
        expect("shm", limits.shm_bytes(), self.memory_bytes)?;
        expect("processes", limits.processes().map(u64::from), self.processes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocation::Division;

    #[test]
    fn a_rental_may_ask_for_the_part_of_its_gpus_and_no_more() {
        let whole = Capacity { milli_cpus: 8000, memory_bytes: 64 << 30, processes: 32_000, divided: true };
        let part = |gpus| Division { gpus: 3, without_gpu: 2 }.part(gpus);
        let cpus = |cpus| ContainerLimits::default().with_milli_cpus(cpus).unwrap();
        assert!(whole.check(&cpus(2000), part(1)).is_ok() && whole.check(&cpus(1000), part(0)).is_ok());
        assert_eq!(whole.check(&cpus(2001), part(1)).unwrap_err().field(), "cpus");
        assert!(whole.check(&cpus(1001), part(0)).is_err());
        assert!(whole.check(&cpus(4000), part(2)).is_ok() && whole.check(&cpus(4001), part(2)).is_err());
        assert!(whole.check(&ContainerLimits::default().with_processes(8001).unwrap(), part(1)).is_err());
        assert!(whole.check(&ContainerLimits::default().with_memory_bytes(17 << 30).unwrap(), part(1)).is_err());
        assert!(whole.check(&ContainerLimits::default().with_shm_bytes(17 << 30).unwrap(), part(1)).is_err());
        let undivided = Capacity { divided: false, ..whole };
        assert!(undivided.check(&cpus(8000), part(1)).is_ok() && undivided.check(&cpus(8001), part(3)).is_err());
    }
}
