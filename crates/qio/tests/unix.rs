//! Unix sockets by path and by abstract name.

#![expect(clippy::unwrap_used, reason = "a test program")]

mod common;

use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use common::{in_own_process, open_fds, patience};
use qio::error::Class;
use qio::net::{self, Address, ConnectOptions, ListenOptions, Listener};
use qio::transport::Socket;
use qio::{Channel, ChannelExt};

fn listen(address: &Address) -> qio::Result<Listener> {
    net::listen(&address.clone().listening(), &ListenOptions::new())
}

fn connect(address: &Address) -> qio::Result<std::sync::Arc<dyn Channel>> {
    net::connect(address, &ConnectOptions::new())
}

fn first(listener: &Listener) -> Address {
    listener.local_addresses().remove(0)
}

fn with(address: &Address, options: &[(&str, &str)]) -> Address {
    options
        .iter()
        .fold(address.clone(), |address, (key, value)| address.with_option(key, value).unwrap())
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A folder of this test's own, whose name is also good as an abstract one.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_path_a_tight_name_and_a_padded_name_are_three_addresses() {
    let dir = folder();
    let text = dir.path().join("x").to_str().unwrap().to_owned();
    let plain = Address::unix(&text);
    let kinds = [
        plain.clone(),
        with(&plain, &[("abstract", "on")]),
        with(&plain, &[("abstract", "on"), ("tight", "off")]),
    ];
    for (row, server) in kinds.iter().enumerate() {
        let listener = listen(server).unwrap();
        for (column, client) in kinds.iter().enumerate() {
            match connect(client) {
                Ok(channel) => {
                    assert_eq!(row, column, "{server} and {client:?}");
                    listener.accept(patience()).unwrap().channel.write_all(b"x").unwrap();
                    channel.read_exact(&mut [0]).unwrap();
                }
                Err(error) => {
                    assert_ne!(row, column, "{server}: {error:?}");
                    assert_eq!(error.class(), Class::Open);
                }
            }
        }
        // The address that the listener tells is the one to connect to.
        connect(&first(&listener)).unwrap();
    }
    // All at once, as they are three.
    let listeners = kinds.each_ref().map(|kind| listen(kind).unwrap());
    let locals = listeners.each_ref().map(|listener| first(listener).to_string());
    let expected =
        [format!("unix:{text}"), format!("unix:@{text}"), format!("unix:@{text}?tight=off")];
    assert_eq!(locals, expected);
}

#[test]
fn both_ways_to_write_an_abstract_name_mean_the_same() {
    let dir = folder();
    let name = dir.path().to_str().unwrap();
    for (written, other) in [
        (format!("unix:{name}?abstract"), format!("unix:@{name}")),
        (format!("unix:@{name}"), format!("unix:{name}?abstract&tight")),
        (format!("unix:@{name}?tight=off"), format!("unix:{name}?abstract=on&tight=off")),
        (format!("unix:@{name}?abstract"), format!("unix:@{name}?tight=on")),
        // An escaped @ is part of the name.
        (format!("unix:%40{name}?abstract"), format!("unix:@@{name}")),
    ] {
        let listener = listen(&written.parse().unwrap()).unwrap();
        connect(&other.parse().unwrap()).unwrap();
        listener.accept(patience()).unwrap();
        assert_eq!(written.parse::<Address>().unwrap().to_string(), written);
    }
}

#[test]
fn a_padded_name_is_what_the_kernel_sees_with_zeros_up_to_the_end() {
    let name = format!("qio-test-{}-padded", std::process::id());
    let mut bytes = name.clone().into_bytes();
    bytes.resize(107, 0);
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&bytes).unwrap();
    let foreign = UnixListener::bind_addr(&address).unwrap();
    let padded = with(&Address::unix_abstract(name.clone()), &[("tight", "off")]);
    connect(&padded).unwrap();
    foreign.accept().unwrap();
    let error = listen(&padded).unwrap_err().report().to_string();
    let end = format!(", process {}, listens there)", std::process::id());
    assert!(error.ends_with(&end), "{error}");
    assert_eq!(connect(&Address::unix_abstract(name)).unwrap_err().class(), Class::Open);
}

#[test]
fn names_of_every_length_and_of_any_byte_connect() {
    let unique = format!("{:08x}", std::process::id());
    let long = |bytes: usize| [unique.as_bytes(), &vec![b'n'; bytes - unique.len()]].concat();
    for name in [long(106), long(107), [unique.as_bytes(), b"\0\0x\xFF\0"].concat()] {
        for tight in ["on", "off"] {
            let address = with(&Address::unix_abstract(name.clone()), &[("tight", tight)]);
            let listener = listen(&address).unwrap();
            connect(&address).unwrap();
            listener.accept(patience()).unwrap();
        }
    }
    // A name that fills the structure has nothing to be padded with.
    let address = Address::unix_abstract(long(107));
    let _listener = listen(&with(&address, &[("tight", "off")])).unwrap();
    connect(&address).unwrap();
    // NUL bytes at the end are part of a tight name, and the same as padding.
    let bytes = [&long(20)[..], &[0; 87]].concat();
    let _listener = listen(&Address::unix_abstract(bytes)).unwrap();
    connect(&with(&Address::unix_abstract(long(20)), &[("tight", "off")])).unwrap();
    connect(&Address::unix_abstract(long(20))).unwrap_err();
    for address in [Address::unix_abstract(long(108)), Address::unix(long_path(109))] {
        for error in [connect(&address).unwrap_err(), listen(&address).unwrap_err()] {
            assert_eq!(error.class(), Class::Usage, "{error:?}");
        }
    }
}

fn long_path(bytes: usize) -> PathBuf {
    PathBuf::from(format!("/{}", "p".repeat(bytes - 1)))
}

/// The path of a listener that made it up.
fn made_up(listener: &Listener) -> PathBuf {
    PathBuf::from(first(listener).to_string().strip_prefix("unix:").unwrap())
}

#[test]
fn a_listener_without_a_path_makes_one_up_and_removes_it() {
    let listeners = ["listen:unix:"; 2].map(|text| listen(&text.parse().unwrap()).unwrap());
    let paths = listeners.each_ref().map(|listener| {
        connect(&first(listener)).unwrap();
        listener.accept(patience()).unwrap();
        made_up(listener)
    });
    assert_ne!(paths[0], paths[1]);
    for path in &paths {
        assert!(path.is_absolute());
        assert_eq!(mode(path), 0o600);
    }
    drop(listeners);
    for path in &paths {
        assert!(!path.exists());
    }
    // What is asked for holds here, too.
    let listener = listen(&"listen:unix:?mode=666&unlink=off".parse().unwrap()).unwrap();
    let path = made_up(&listener);
    assert_eq!(mode(&path), 0o666);
    drop(listener);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_made_up_path_is_where_the_environment_says() {
    const WANTED: &str = "QIO_TEST_FOLDER";
    if let Some(folder) = std::env::var_os(WANTED) {
        match listen(&"listen:unix:".parse().unwrap()) {
            Ok(listener) => assert_eq!(made_up(&listener).parent(), Some(Path::new(&folder))),
            Err(error) => {
                let hint = format!("the temporary path is in {}", folder.display());
                assert_eq!(error.hint_text(), Some(&*hint));
            }
        }
        return;
    }
    let dir = folder();
    let short = dir.path().to_str().unwrap();
    let long = long_path(100);
    let long = long.to_str().unwrap();
    for (temporary, runtime, wanted) in [
        (short, long, short),
        ("", short, short),
        ("relative", short, short),
        (long, short, long),
        ("", "", "/tmp"),
    ] {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_made_up_path_is_where_the_environment_says"])
            .env("TMPDIR", temporary)
            .env("XDG_RUNTIME_DIR", runtime)
            .env(WANTED, wanted)
            .status()
            .unwrap();
        assert!(status.success(), "{temporary:?}, {runtime:?}: not {wanted:?}");
    }
    assert_eq!(std::fs::read_dir(short).unwrap().count(), 0);
}

#[test]
fn the_umask_takes_nothing_from_the_mode_and_no_moment_permits_more() {
    let name = "the_umask_takes_nothing_from_the_mode_and_no_moment_permits_more";
    in_own_process(name, || {
        let dir = folder();
        let path = dir.path().join("x");
        let set_umask = |mask| rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask));
        for mask in [0o000, 0o022, 0o777] {
            set_umask(mask);
            for asked in [0o600, 0o666, 0o020, 0o000, 0o777] {
                let address = with(&Address::unix(&path), &[("mode", &format!("{asked:o}"))]);
                let _listener = listen(&address).unwrap();
                assert_eq!(mode(&path), asked, "mode {asked:o}, umask {mask:o}");
            }
            let _listener = listen(&Address::unix(&path)).unwrap();
            assert_eq!(mode(&path), 0o777 & !mask);
        }
        // Without a umask bind(2) by itself permits everything, and somebody looks all the time.
        set_umask(0);
        let (over, seen, looks) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    if let Ok(stat) = std::fs::symlink_metadata(&path) {
                        seen.fetch_or(stat.mode() & 0o7777, Ordering::Relaxed);
                        looks.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            let address = with(&Address::unix(&path), &[("mode", "600")]);
            while looks.load(Ordering::Relaxed) < 3000 {
                drop(listen(&address).unwrap());
            }
            over.store(true, Ordering::Relaxed);
        });
        assert_eq!(seen.load(Ordering::Relaxed), 0o600);
    });
}

#[test]
fn the_socket_file_gets_its_owner_by_name_and_by_number() {
    let dir = folder();
    let path = dir.path().join("x");
    let owner = || {
        let stat = std::fs::symlink_metadata(&path).unwrap();
        (stat.uid(), stat.gid())
    };
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let own = [("user", &*uid.to_string()), ("group", &*gid.to_string()), ("mode", "640")];
    let _listener = listen(&with(&Address::unix(&path), &own)).unwrap();
    assert_eq!((owner(), mode(&path)), ((uid, gid), 0o640));
    drop(_listener);
    if !is_root() {
        println!("skipped in part: only root gives files away");
        return;
    }
    for (options, expected) in [
        (&[("user", "1234")][..], (1234, 0)),
        (&[("group", "4321")], (0, 4321)),
        (&[("user", "1234"), ("group", "4321")], (1234, 4321)),
        (&[("user", "root"), ("group", "root")], (0, 0)),
    ] {
        let listener = listen(&with(&Address::unix(&path), options)).unwrap();
        assert_eq!(owner(), expected, "{listener}");
        connect(&Address::unix(&path)).unwrap();
        // The file is still known as the own one.
        listener.close().unwrap();
        assert!(!path.exists());
    }
}

#[test]
fn an_account_that_is_not_there_is_an_error_before_anything_is_made() {
    let dir = folder();
    let path = dir.path().join("x");
    for key in ["user", "group"] {
        let address = with(&Address::unix(&path), &[(key, "no such account")]);
        let error = listen(&address).unwrap_err();
        assert_eq!(error.class(), Class::Usage);
        let end = format!("option \"{key}\": there is no {key} \"no such account\"");
        assert!(error.to_string().ends_with(&end), "{error}");
        for number in ["4294967295", "4294967296", "99999999999999999999999"] {
            let error = listen(&with(&Address::unix(&path), &[(key, number)])).unwrap_err();
            let end = format!("option \"{key}\": {number} is the number of no {key}");
            assert!(error.to_string().ends_with(&end), "{error}");
        }
    }
    assert!(!path.exists());
}

#[test]
fn what_cannot_be_finished_leaves_no_file_behind() {
    let name = "what_cannot_be_finished_leaves_no_file_behind";
    in_own_process(name, || {
        let dir = folder();
        let path = dir.path().join("x");
        // Room for the socket, and for nothing to look at its file with.
        let last = open_fds().last().unwrap().0.unsigned_abs();
        let gaps = u64::from(last + 1) - open_fds().len() as u64;
        let _filling: Vec<_> =
            (0..gaps).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let leave_room_for = |fds: u64| {
            let limit = rustix::process::Resource::Nofile;
            let maximum = rustix::process::getrlimit(limit).maximum;
            let current = Some(open_fds().len() as u64 + fds);
            rustix::process::setrlimit(limit, rustix::process::Rlimit { current, maximum })
                .unwrap();
        };
        leave_room_for(1);
        let address = with(&Address::unix(&path), &[("mode", "600"), ("unlink", "off")]);
        let error = listen(&address).unwrap_err();
        assert!(error.report().to_string().contains("ulimit -n"), "{error:?}");
        assert!(!path.exists());
        // With room for what wakes those who wait for clients, it is done.
        leave_room_for(2);
        listen(&Address::unix(&path)).unwrap();
    });
}

#[test]
fn a_file_is_not_given_away_by_everybody() {
    if !is_root() {
        println!("skipped: only root can become somebody else");
        return;
    }
    let dir = folder();
    let anybody = rustix::fs::Mode::from_raw_mode(0o777);
    rustix::fs::chmod(dir.path(), anybody).unwrap();
    let path = dir.path().join("x");
    let address = with(&Address::unix(&path), &[("user", "root")]);
    let error = thread::spawn(move || {
        // Of this thread alone.
        rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65534)).unwrap();
        listen(&address).unwrap_err()
    });
    let error = error.join().unwrap();
    assert_eq!(error.io_kind(), Some(ErrorKind::PermissionDenied));
    assert!(error.hint_text().unwrap().starts_with("only root gives files away"), "{error:?}");
    assert!(!path.exists());
}

#[test]
fn a_link_that_takes_the_place_of_the_socket_is_not_followed() {
    // What somebody can do who may write into the folder, between bind(2) and chmod(2): here the
    // link is there for as long as it takes, since a dead socket is what it points to.
    let dir = folder();
    let (path, victim) = (dir.path().join("x"), dir.path().join("victim"));
    std::fs::write(&victim, "").unwrap();
    rustix::fs::chmod(&victim, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    let over = AtomicBool::new(false);
    let swaps = AtomicU32::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let is_socket = |stat: std::fs::Metadata| stat.file_type().is_socket();
                if std::fs::symlink_metadata(&path).is_ok_and(is_socket) {
                    let _ = std::fs::remove_file(&path);
                    if std::os::unix::fs::symlink(&victim, &path).is_ok() {
                        swaps.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        let mode =
            if is_root() { &[("mode", "666"), ("user", "1234")][..] } else { &[("mode", "666")] };
        let address = with(&Address::unix(&path), mode);
        while swaps.load(Ordering::Relaxed) < 300 {
            let _ = listen(&address);
            let _ = std::fs::remove_file(&path);
        }
        over.store(true, Ordering::Relaxed);
    });
    let stat = std::fs::metadata(&victim).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.uid()), (0o600, rustix::process::geteuid().as_raw()));
}

#[test]
fn unlink_off_leaves_the_socket_file_to_be_replaced_by_the_next() {
    let dir = folder();
    let path = dir.path().join("x");
    let address = with(&Address::unix(&path), &[("unlink", "off")]);
    let listener = listen(&address).unwrap();
    listener.close().unwrap();
    drop(listener);
    assert!(path.exists());
    let error = connect(&Address::unix(&path)).unwrap_err();
    assert_eq!(error.io_kind(), Some(ErrorKind::ConnectionRefused));
    drop(listen(&Address::unix(&path)).unwrap());
    assert!(!path.exists());
}

#[test]
fn an_unnamed_client_and_one_with_a_name_of_zeros_are_known_by_their_process() {
    let dir = folder();
    let path = dir.path().join("x");
    let listener = listen(&Address::unix(&path)).unwrap();
    let named = rustix::net::socket(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        None,
    )
    .unwrap();
    let mut name = std::process::id().to_ne_bytes().to_vec();
    name.extend([0; 103]);
    let name = rustix::net::SocketAddrUnix::new_abstract_name(&name).unwrap();
    rustix::net::bind(&named, &name).unwrap();
    let to = rustix::net::SocketAddrUnix::new(path.as_os_str().as_bytes()).unwrap();
    rustix::net::connect(&named, &to).unwrap();
    let _unnamed = connect(&Address::unix(&path)).unwrap();
    for _ in 0..2 {
        let peer = listener.accept(patience()).unwrap().peer;
        let (pid, uid) = (std::process::id(), rustix::process::geteuid().as_raw());
        assert_eq!(peer, format!("unix:{} (process {pid}, user {uid})", path.display()));
    }
}

#[test]
fn both_sides_have_buffers_of_the_sizes_that_their_addresses_say() {
    let dir = folder();
    let path = dir.path().join("x");
    let sizes = |channel: &dyn Channel| {
        let socket = channel.find::<Socket>().unwrap();
        (socket.send_buffer_size().unwrap(), socket.receive_buffer_size().unwrap())
    };
    let options = [("sndbuf", "48k"), ("rcvbuf", "24k")];
    let listener = listen(&with(&Address::unix(&path), &options)).unwrap();
    let options = [("sndbuf", "32k"), ("rcvbuf", "16k")];
    let address = with(&Address::unix(&path), &options);
    let client = net::connect(&address, &ConnectOptions::new()).unwrap();
    let server = listener.accept(patience()).unwrap().channel;
    // The kernel doubles what it is told (socket(7)).
    assert_eq!(sizes(&*client), (2 * 32 * 1024, 2 * 16 * 1024));
    assert_eq!(sizes(&*server), (2 * 48 * 1024, 2 * 24 * 1024));
}
