//! Which processes see a directory: a private mount hides it from all others, which then take the same
//! locks in a directory of their own.
//!
//! The format is that of `/proc/PID/mountinfo` in proc(5).

use std::{fs, path::Path};

/// Returns why other processes of this host may not see the directory, if the mounts of this process
/// show it.
pub(super) fn hidden_from_others(dir: &Path) -> Option<&'static str> {
    hidden_by(&fs::read_to_string("/proc/self/mountinfo").ok()?, dir)
}

fn hidden_by(mounts: &str, dir: &Path) -> Option<&'static str> {
    let mount = mounts
        .lines()
        .filter_map(Mount::parse)
        .filter(|mount| dir.starts_with(&mount.point))
        // Of two mounts at one point, the later one hides the other.
        .max_by_key(|mount| mount.point.len())?;
    if mount.root.contains("/systemd-private-") {
        Some("it belongs to one systemd service (PrivateTmp=)")
    } else if mount.file_system == "overlay" {
        Some("it is in the file system of one container")
    } else {
        None
    }
}

struct Mount {
    root: String,
    point: String,
    file_system: String,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (mount, source) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        Some(Self {
            root: unescape(fields.next()?),
            point: unescape(fields.next()?),
            file_system: source.split(' ').next()?.to_owned(),
        })
    }
}

/// Space, tab, line break and backslash are written as octal numbers.
fn unescape(field: &str) -> String {
    let pairs = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    pairs
        .iter()
        .fold(field.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n";

    fn hidden(more: &str, dir: &str) -> Option<&'static str> {
        hidden_by(&format!("{HOST}{more}"), Path::new(dir))
    }

    #[test]
    fn directory_of_the_host_is_not_hidden() {
        assert_eq!(hidden("", "/var/tmp/tenure-0"), None);
        let elsewhere = "90 27 0:40 / /var/tmporary rw - overlay overlay rw\n";
        assert_eq!(hidden(elsewhere, "/var/tmp/tenure-0"), None);
    }

    #[test]
    fn private_directory_of_a_service_is_hidden() {
        let private = "91 27 254:0 /var/tmp/systemd-private-0f-report.service-x/tmp /var/tmp rw \
                       shared:9 master:1 - ext4 /dev/vda rw\n";
        assert!(
            hidden(private, "/var/tmp/tenure-0")
                .unwrap()
                .contains("PrivateTmp=")
        );
        assert_eq!(hidden(private, "/srv/locks"), None);
    }

    #[test]
    fn directory_of_a_container_is_hidden_unless_it_is_a_volume() {
        let container = "92 1 0:50 / / rw - overlay overlay rw\n\
                         93 92 254:0 /srv/my\\040locks /my\\040locks rw - ext4 /dev/vda rw\n";
        assert!(
            hidden(container, "/var/tmp/tenure-0")
                .unwrap()
                .contains("container")
        );
        assert_eq!(hidden(container, "/my locks/a"), None);
    }
}
