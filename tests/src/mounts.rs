//! File systems that misbehave on request. Mounting needs root: where that is not allowed, a
//! test says that it was skipped, and why, and passes.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A mounted file system, unmounted when the handle goes.
#[derive(Debug)]
pub struct Mount {
    folder: TempDir,
    /// What is mounted, so that it can be mounted again.
    arguments: Vec<String>,
    mounted: bool,
}

/// Says on the test's output that it was skipped, and why.
pub fn skipped(test: &str, why: &str) {
    eprintln!("SKIPPED {test}: {why}");
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("{program} cannot be started: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}", why.trim()))
}

impl Mount {
    /// A file system in memory with `bytes` of room.
    ///
    /// # Errors
    /// Why it cannot be mounted here.
    pub fn in_memory(bytes: u64) -> Result<Self, String> {
        let size = format!("size={bytes}");
        Self::at_new_folder(&["-t", "tmpfs", "-o", &size, "tmpfs"])
    }

    /// An ext4 file system in the file `image`, made here with `bytes` of room.
    ///
    /// # Errors
    /// Why it cannot be mounted here.
    pub fn ext4(image: &Path, bytes: u64) -> Result<Self, String> {
        let file = std::fs::File::create(image).map_err(|error| error.to_string())?;
        file.set_len(bytes).map_err(|error| error.to_string())?;
        let image = image.to_str().ok_or("the image's name is not UTF-8")?;
        run("mkfs.ext4", &["-q", "-F", image])?;
        Self::at_new_folder(&["-o", "loop", image])
    }

    /// The folder `of`, seen through a mount that refuses every change.
    ///
    /// # Errors
    /// Why it cannot be mounted here.
    pub fn read_only(of: &Path) -> Result<Self, String> {
        let of = of.to_str().ok_or("the folder's name is not UTF-8")?;
        let mount = Self::at_new_folder(&["--bind", of])?;
        let at = mount.path();
        run("mount", &["-o", "remount,ro,bind", &at.to_string_lossy()])?;
        Ok(mount)
    }

    fn at_new_folder(arguments: &[&str]) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut mount = Self {
            folder,
            arguments: arguments.iter().map(|&a| a.to_owned()).collect(),
            mounted: false,
        };
        mount.again()?;
        Ok(mount)
    }

    /// Mounts it again after [`Mount::unmount`].
    ///
    /// # Errors
    /// Why it cannot be mounted.
    pub fn again(&mut self) -> Result<(), String> {
        let at = self.path();
        let at = at.to_string_lossy();
        let mut arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        arguments.push(&at);
        run("mount", &arguments)?;
        self.mounted = true;
        Ok(())
    }

    /// Lets the kernel make an ext4 file system read-only under the programs that have files open on it, as it does
    /// when it meets an error of the disk.
    ///
    /// # Errors
    /// Why that cannot be done here.
    pub fn turn_read_only(&self) -> Result<(), String> {
        let at = self.path();
        run("mount", &["-o", "remount,abort", &at.to_string_lossy()])?;
        // Otherwise the kernel only notes that it is to.
        match tempfile::tempfile_in(at) {
            Err(error) if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem => Ok(()),
            other => Err(format!("it is not read-only after that: {other:?}")),
        }
    }

    /// Takes it away, with everything that was not written to it yet.
    ///
    /// # Errors
    /// Why it cannot be unmounted.
    pub fn unmount(&mut self) -> Result<(), String> {
        self.mounted = false;
        run("umount", &[&self.path().to_string_lossy()])
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.path().to_owned()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted {
            // A failed test may still have files open: detach now, free when they are closed.
            let _ = run("umount", &["--lazy", &self.path().to_string_lossy()]);
        }
    }
}
