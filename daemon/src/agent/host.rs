//! The volume on the host, where the kubelet has published it for the hosting pod. It is never found by what happens to lie
//! there: an unmounted volume is an empty folder of the node, of which a backup would "succeed" and which a restore would fill.

use anyhow::Result;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use wherry_block::{Engine, Source};
use wherry_repo::Error;

/// A driver may round a volume up; one that is larger by more than this, and by a tenth, is another one.
const ROUNDED: u64 = 1 << 30;

/// A volume that is published for a pod. What is opened through it is what was looked at, whatever happens to the names.
#[derive(Debug)]
pub(crate) struct Published {
    fd: OwnedFd,
    /// Where it lies, for people.
    shown: String,
}

/// The names that lead to a volume come from the API server, and are none but names.
fn is_name(text: &str) -> bool {
    !text.is_empty() && !matches!(text, "." | "..") && !text.contains('/')
}

fn refused(text: String) -> anyhow::Error {
    Error::invalid(text).into()
}

/// There is no volume where it should be, and nothing else: it may still come. After a reboot the API server says that a pod
/// runs before the kubelet has published anything for it.
#[derive(Debug)]
pub(crate) struct NotPublished(String);

impl std::fmt::Display for NotPublished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the volume is not published: {}", self.0)
    }
}

impl std::error::Error for NotPublished {}

/// What it means that something at a path cannot be opened.
fn unopened(shown: impl std::fmt::Display, e: Errno) -> anyhow::Error {
    match e {
        Errno::NOENT => NotPublished(format!("{shown}: {e}")).into(),
        _ => refused(format!("{shown} cannot be opened as the volume: {e}")),
    }
}

/// A look at what is below the kubelet's root: no link is followed, and nothing leads out of it.
struct Kubelet<'a> {
    root: &'a Path,
    fd: OwnedFd,
}

impl<'a> Kubelet<'a> {
    fn open(root: &'a Path, names: [&str; 2]) -> Result<Self> {
        if let Some(name) = names.into_iter().find(|name| !is_name(name)) {
            return Err(refused(format!("{name:?} names no volume: pod or PV have no such name")));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(root, flags, Mode::empty()).map_err(|e| {
            let text = format!(
                "the root of the kubelet, {}, cannot be opened ({e}): set kubeletRoot in ConfigMap wherry, and mount it into the \
                 agent at the same path",
                root.display()
            );
            refused(text)
        })?;
        Ok(Self { root, fd })
    }

    fn at(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(
            &self.fd,
            path,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC | flags,
            Mode::empty(),
            resolve,
        )
    }

    fn whole(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

impl Published {
    /// The device that the kubelet has published for the pod. Not opened for reading or writing yet.
    ///
    /// # Errors
    /// [`NotPublished`] when there is none; `Invalid` when anything else is in its place.
    pub(crate) fn device(root: &Path, pod_uid: &str, pv: &str) -> Result<Self> {
        let kubelet = Kubelet::open(root, [pod_uid, pv])?;
        let folder = format!("pods/{pod_uid}/volumeDevices/kubernetes.io~csi");
        let node = format!("plugins/kubernetes.io/csi/volumeDevices/publish/{pv}/{pod_uid}");
        let link = kubelet.whole(&format!("{folder}/{pv}"));
        let (shown, wanted) = (link.display(), kubelet.whole(&node));
        let leads = kubelet
            .at(&folder, OFlags::DIRECTORY)
            .and_then(|folder| rustix::fs::readlinkat(folder, pv, Vec::new()))
            .map_err(|e| unopened(&shown, e))?;
        if leads.as_bytes() != wanted.as_os_str().as_bytes() {
            let leads = Path::new(OsStr::from_bytes(leads.as_bytes())).display();
            return Err(refused(format!("{shown} leads to {leads}, and not to {}", wanted.display())));
        }
        let shown = wanted.display().to_string();
        let fd = kubelet.at(&node, OFlags::empty()).map_err(|e| unopened(&shown, e))?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| refused(format!("{shown} cannot be looked at: {e}")))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::BlockDevice => Ok(Self { fd, shown }),
            // The driver makes a file, and binds the device to it.
            FileType::RegularFile => Err(NotPublished(format!("{shown} is a file, and no block device")).into()),
            _ => Err(refused(format!("{shown} is no block device"))),
        }
    }

    /// The filesystem that the kubelet has mounted for the pod.
    ///
    /// # Errors
    /// [`NotPublished`] when none is mounted there; `Invalid` when anything else is in its place.
    pub(crate) fn filesystem(root: &Path, pod_uid: &str, pv: &str) -> Result<Self> {
        let kubelet = Kubelet::open(root, [pod_uid, pv])?;
        let path = format!("pods/{pod_uid}/volumes/kubernetes.io~csi/{pv}/mount");
        let shown = kubelet.whole(&path).display().to_string();
        let fd = kubelet.at(&path, OFlags::DIRECTORY).map_err(|e| unopened(&shown, e))?;
        let look = rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
            .map_err(|e| refused(format!("{shown} cannot be looked at: {e}")))?;
        if !look.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
            let text = "this kernel does not say what a mount point is: Linux 5.8 or newer is needed";
            return Err(refused(text.to_owned()));
        }
        if !look.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            let text = format!("{shown} is a folder of the node: no volume is mounted there");
            return Err(NotPublished(text).into());
        }
        Ok(Self { fd, shown })
    }

    /// A path of this very device or directory, as long as this lives.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }

    /// Where it lies.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// Opens the device to read it.
    ///
    /// # Errors
    /// `Invalid` when it has not the size that it should have.
    pub(crate) fn source(&self, engine: Engine, size: &Expected) -> anyhow::Result<Source> {
        let source = Source::open(&self.path(), engine)?;
        size.check(&self.shown, source.geometry().size)?;
        Ok(source)
    }
}

/// The size that a device should have, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expected {
    /// What it has to hold.
    pub(crate) least: u64,
    /// What the driver says that it has; none if it does not say it.
    pub(crate) capacity: Option<u64>,
}

impl Expected {
    /// # Errors
    /// `Invalid` when a device of that size is another one.
    pub(crate) fn check(&self, shown: &str, size: u64) -> Result<()> {
        let capacity = self.capacity.unwrap_or(self.least);
        let least = self.least.max(capacity);
        if size < least {
            let text = format!("{shown} has {size} bytes, and {least} are needed: it is another volume");
            return Err(refused(text));
        }
        let most = least.saturating_add(ROUNDED.max(least / 10));
        if self.capacity.is_some() && size > most {
            return Err(refused(format!("{shown} has {size} bytes, and the volume {capacity}: it is another one")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_size_is_that_of_the_volume_or_rounded_up() {
        const GIB: u64 = 1 << 30;
        let of = |least, capacity, size| Expected { least, capacity }.check("x", size).is_ok();
        assert!(of(GIB, Some(GIB), GIB) && of(GIB, Some(GIB), GIB + 4096) && of(GIB, None, 50 * GIB));
        assert!(!of(GIB, Some(GIB), GIB - 512) && !of(GIB, Some(2 * GIB), GIB) && !of(2 * GIB, None, GIB));
        assert!(!of(GIB, Some(GIB), 3 * GIB) && of(100 * GIB, Some(100 * GIB), 105 * GIB));
        assert!(!of(100 * GIB, Some(100 * GIB), 111 * GIB));
    }

    #[test]
    fn what_is_not_published_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        // What may still come, and what is wrong for good.
        let of = |found: Result<Published>| {
            let error = found.unwrap_err();
            (error.is::<NotPublished>(), error.to_string())
        };
        let said = |found: Result<Published>| match of(found) {
            (false, text) => text,
            (true, text) => panic!("it is waited for: {text}"),
        };
        let waits = |found: Result<Published>| match of(found) {
            (true, text) => text,
            (false, text) => panic!("it is not waited for: {text}"),
        };
        let device = || said(Published::device(root, "p1", "pv1"));
        let coming = || waits(Published::device(root, "p1", "pv1"));
        assert!(coming().contains("not published"), "{}", coming());
        let links = root.join("pods/p1/volumeDevices/kubernetes.io~csi");
        let nodes = root.join("plugins/kubernetes.io/csi/volumeDevices/publish/pv1");
        std::fs::create_dir_all(&links).unwrap();
        std::fs::create_dir_all(&nodes).unwrap();
        let link = |to: &Path| {
            let _ = std::fs::remove_file(links.join("pv1"));
            symlink(to, links.join("pv1")).unwrap();
        };
        for elsewhere in [Path::new("/dev/loop0"), &root.join("x"), &nodes.join("p2"), Path::new("../../../p1")] {
            link(elsewhere);
            assert!(device().contains("and not to"), "{}", device());
        }
        link(&nodes.join("p1"));
        assert!(coming().contains("not published"), "{}", coming());
        std::fs::write(nodes.join("p1"), "").unwrap();
        assert!(coming().contains("no block device"), "{}", coming());
        std::fs::remove_file(nodes.join("p1")).unwrap();
        std::fs::create_dir(nodes.join("p1")).unwrap();
        assert!(device().contains("no block device"), "{}", device());
        std::fs::remove_dir(nodes.join("p1")).unwrap();
        // A link in the place of the node is not followed.
        symlink("/dev/null", nodes.join("p1")).unwrap();
        assert!(device().contains("no block device"), "{}", device());
        for bad in ["..", "", "a/b", "."] {
            assert!(said(Published::device(root, bad, "pv1")).contains("names no volume"));
            assert!(said(Published::filesystem(root, "p1", bad)).contains("names no volume"));
        }
        // An empty folder of the node, in the place of a volume.
        let mount = root.join("pods/p1/volumes/kubernetes.io~csi/pv1/mount");
        let filesystem = || Published::filesystem(root, "p1", "pv1");
        assert!(waits(filesystem()).contains("not published"));
        std::fs::create_dir_all(&mount).unwrap();
        assert!(waits(filesystem()).contains("a folder of the node"));
        std::fs::remove_dir(&mount).unwrap();
        symlink("/proc", &mount).unwrap();
        assert!(said(filesystem()).contains("cannot be opened"));
    }
}
