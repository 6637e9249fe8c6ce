//! Whether what is mounted below `/.gpurent` is what the host put there, and all of it.

use crate::paths::{ACCESS, KIT, RUN};

/// Why an image cannot be let run, by its mounts as `/proc/self/mountinfo` (proc(5)) lists them.
pub(crate) fn refuse(mountinfo: &str) -> Option<&'static str> {
    let points: Vec<&str> = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    let count = |path: &str| points.iter().filter(|point| **point == path).count();
    if count(KIT) != 1 || count(RUN) != 1 || count(ACCESS) > 1 {
        return Some("the image has made its own of /.gpurent, which is the host's");
    }
    let foreign = points.iter().any(|point| point.starts_with("/.gpurent") && ![KIT, RUN, ACCESS].contains(point));
    foreign.then_some("the image has a volume below /.gpurent, which is the host's")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(points: &[&str]) -> String {
        points.iter().enumerate().map(|(n, point)| format!("{n} 1 0:1 / {point} rw - tmpfs tmpfs rw\n")).collect()
    }

    #[test]
    fn the_hosts_mounts_and_no_others_lie_below_gpurent() {
        assert_eq!(refuse(&listing(&["/", KIT, RUN, ACCESS, "/data"])), None);
        assert_eq!(refuse(&listing(&["/", KIT, RUN])), None, "credentials that were uploaded");
        assert!(refuse(&listing(&["/", "/x/kit", RUN])).is_some(), "a link in its place");
        assert!(refuse(&listing(&["/", KIT, RUN, "/.gpurent/kit/bin"])).is_some());
        assert!(refuse(&listing(&["/", KIT, KIT, RUN])).is_some());
    }
}
