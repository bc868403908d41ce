//! All the memory of a relay, the kernel's for it included.

use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

/// A memory control group of our own, removed when dropped.
#[derive(Debug)]
pub(crate) struct Cgroup {
    folder: PathBuf,
    usage: &'static str,
}

impl Cgroup {
    /// Makes one, where the machine lets us: version 2 with the memory controller, or version 1.
    pub(crate) fn make() -> Result<Self> {
        let places = [("/sys/fs/cgroup", "memory.current"), (VERSION_1, "memory.usage_in_bytes")];
        let mut refusal = Error::from(ErrorKind::NotFound);
        for (place, usage) in places {
            let folder = Path::new(place).join(format!("qio-bench-{}", std::process::id()));
            match std::fs::create_dir(&folder) {
                Ok(()) if folder.join(usage).exists() => return Ok(Self { folder, usage }),
                // A hierarchy without the controller of memory.
                Ok(()) => std::fs::remove_dir(&folder)?,
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    /// A command in front of another, which puts that into the group.
    pub(crate) fn wrapper(&self) -> Vec<String> {
        let script = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.folder.display());
        ["sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
    }

    /// What is used now, in KiB.
    pub(crate) fn used_kib(&self) -> Result<f64> {
        let text = std::fs::read_to_string(self.folder.join(self.usage))?;
        let bytes: f64 = text.trim().parse().map_err(Error::other)?;
        Ok(bytes / 1024.0)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The last process may still be on its way out.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

const VERSION_1: &str = "/sys/fs/cgroup/memory";
