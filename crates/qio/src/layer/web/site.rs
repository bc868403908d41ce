//! The files of a folder, and of nothing outside it.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::condition::{Selected, Version};
use super::listing::{link, listing};
use super::reply::{Body, Fault, PLAIN, Reply, fault};
use super::request::{Names, Request};

/// What a [`Site`] serves, besides its files.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SiteOptions {
    /// The file that stands for its folder. Default: `index.html`.
    pub index: String,
    /// Whether a folder without such a file is answered with a list of its files. Default: no.
    pub listing: bool,
    /// Whether names that begin with a dot are served, too. Default: no.
    pub hidden: bool,
    /// A path that is answered with `ok`, for those who want to know whether somebody is there.
    /// Nobody has to say a password there. Default: none.
    pub health: Option<String>,
}

/// What a WebSocket's server answers to requests that ask for no WebSocket: the files of a folder,
/// or that it is well, or both.
///
/// The folder is kept open: what is put in its place later is not served. A symbolic link is
/// followed while it stays inside (relative, and not above the folder); what leads outside is not
/// there. Nothing but regular files is served. Reading them may wait for the disk, on the thread
/// that accepts: a folder on another machine is not for this.
#[derive(Debug)]
pub struct Site {
    folder: Option<OwnedFd>,
    options: SiteOptions,
}

impl Site {
    /// Serves the files in a folder.
    ///
    /// # Errors
    ///
    /// What opening it reports: `NotFound`, `NotADirectory`, `PermissionDenied`…
    pub fn open(folder: &Path, options: SiteOptions) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(folder, flags, Mode::empty())?;
        // What will be needed for every file: openat2(2), and the right to search.
        open(folder.as_fd(), b".", OFlags::PATH)?;
        Ok(Self { folder: Some(folder), options })
    }

    /// Serves no files, but what the options say.
    pub fn without_files(options: SiteOptions) -> Self {
        Self { folder: None, options }
    }

    /// Whether this request is for here: without a folder, only questions about health are.
    pub(super) fn takes(&self, request: &Request) -> bool {
        self.folder.is_some() || self.is_health(request)
    }

    /// Whether somebody asks whether somebody is there.
    pub(super) fn is_health(&self, request: &Request) -> bool {
        self.options.health.as_ref() == Some(&request.path)
    }

    /// Answers a request.
    pub(super) fn answer(&self, request: &Request, now: SystemTime) -> Reply {
        match &*request.method {
            "GET" | "HEAD" if self.is_health(request) => {
                Reply::new(200, PLAIN, b"ok\n".to_vec()).field("Cache-Control", "no-store")
            }
            "GET" | "HEAD" => self.file(request, now).unwrap_or_else(Reply::from),
            _ => fault(405, "the method is neither GET nor HEAD").into(),
        }
    }

    fn file(&self, request: &Request, now: SystemTime) -> Result<Reply, Fault> {
        let names = Names::parse(&request.path)?;
        let Some(folder) = &self.folder else { return Err(NOT_FOUND) };
        if names.is_hidden() && !self.options.hidden {
            return Err(NOT_FOUND);
        }
        let mut path = names.joined();
        if names.is_folder {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend(self.options.index.as_bytes());
        }
        let opened = readable(folder.as_fd(), &path);
        if names.is_folder && self.options.listing && opened.as_ref().err() == Some(&NOT_FOUND) {
            return self.list(folder.as_fd(), &names);
        }
        let (file, metadata) = opened?;
        if metadata.is_dir() && !names.is_folder {
            let query = request.query.as_ref().filter(|query| query.is_ascii());
            let query = query.map_or(String::new(), |query| format!("?{query}"));
            let name = names.names.last().map_or(&[][..], |name| name);
            // Relative to where it stands: it leads to no other host, and it is right behind a
            // proxy that has put this site below a path.
            let location = format!("{}/{query}", link(name));
            return Ok(Reply::text(301, "it is a folder").field("Location", &location));
        }
        if !metadata.is_file() {
            return Err(NOT_FOUND);
        }
        Ok(selected(request, file, &metadata, &path, now))
    }

    fn list(&self, root: BorrowedFd<'_>, names: &Names) -> Result<Reply, Fault> {
        let path = names.joined();
        let path = if path.is_empty() { b"." } else { &*path };
        let folder = open(root, path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed)?;
        let is_root = names.names.is_empty();
        listing(folder, is_root, self.options.hidden).map_err(|_| UNREADABLE)
    }
}

impl Default for SiteOptions {
    fn default() -> Self {
        let index = "index.html".to_owned();
        Self { index, listing: false, hidden: false, health: None }
    }
}

/// What is sent of a file.
fn selected(
    request: &Request,
    file: File,
    metadata: &Metadata,
    path: &[u8],
    now: SystemTime,
) -> Reply {
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    let size = metadata.len();
    let version = Version::new(modified, size, metadata.ino(), now);
    let is_get = request.method == "GET";
    let (status, from, len) = match request.conditions.select(&version, size, is_get) {
        Selected::Whole => (200, 0, size),
        Selected::Part { from, len } => (206, from, len),
        Selected::NotModified => {
            let reply =
                Reply { status: 304, fields: String::new(), body: Body::Absent, must_close: false };
            return versioned(reply, &version);
        }
        Selected::Changed => return fault(412, "the file is not as it is wanted").into(),
        Selected::Unsatisfiable => {
            return Reply::text(416, "the file is shorter")
                .field("Content-Range", &format!("bytes */{size}"));
        }
    };
    let fields = format!("Content-Type: {}\r\nAccept-Ranges: bytes\r\n", media_type(path));
    let body = Body::File { file, from, len };
    let mut reply = Reply { status, fields, body, must_close: false };
    if status == 206 {
        reply = reply.field("Content-Range", &format!("bytes {from}-{}/{size}", from + len - 1));
    }
    versioned(reply, &version)
}

/// Tells the version, and that it is to be asked for: the parts of a page fit each other then.
fn versioned(reply: Reply, version: &Version) -> Reply {
    let mut reply = reply.field("ETag", &version.tag()).field("Cache-Control", "no-cache");
    if let Some(modified) = version.modified {
        reply = reply.field("Last-Modified", &httpdate::fmt_http_date(modified));
    }
    reply
}

fn media_type(path: &[u8]) -> String {
    let kind = mime_guess::from_path(OsStr::from_bytes(path)).first_or_octet_stream();
    // RFC 9239 has left one name of the many.
    if kind.subtype() == mime_guess::mime::JAVASCRIPT {
        return "text/javascript; charset=utf-8".to_owned();
    }
    match kind.type_() == mime_guess::mime::TEXT && kind.get_param("charset").is_none() {
        true => format!("{kind}; charset=utf-8"),
        false => kind.to_string(),
    }
}

/// Opens what may be a file. What it is shows then: a FIFO without writers and a device do not
/// hold this up.
fn readable(root: BorrowedFd<'_>, path: &[u8]) -> Result<(File, Metadata), Fault> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(open(root, path, flags).map_err(failed)?);
    let metadata = file.metadata().map_err(|_| UNREADABLE)?;
    Ok((file, metadata))
}

/// Opens below `root` and nowhere else, whatever links there are, and whatever is renamed meanwhile.
fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut attempts_left = ATTEMPTS;
    loop {
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // Something was renamed just now, and the kernel is not sure where it is.
            Err(Errno::AGAIN) if attempts_left > 0 => attempts_left -= 1,
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// How often the kernel may be unsure.
const ATTEMPTS: u32 = 8;

fn failed(error: io::Error) -> Fault {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::ACCESS | Errno::PERM) => fault(403, "the file may not be read"),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN) => {
            fault(503, "the file cannot be opened at the moment")
        }
        // The last three: it leads outside, in circles, or to a socket.
        Some(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::XDEV | Errno::LOOP)
        | Some(Errno::NXIO | Errno::NODEV) => NOT_FOUND,
        _ if error.kind() == ErrorKind::InvalidInput => NOT_FOUND,
        _ => UNREADABLE,
    }
}

const NOT_FOUND: Fault = Fault { status: 404, what: "there is no such file" };

const UNREADABLE: Fault = Fault { status: 500, what: "the file cannot be read" };
