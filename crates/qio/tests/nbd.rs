//! NBD with STARTTLS: a live channel becomes TLS, with QEMU and libnbd at the other end.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use common::is_installed;
use qio::layer::tls::{self, Authorization, ClientSettings, Facts, Pattern, ServerSettings};
use qio::net::{self, ConnectOptions, ListenOptions};
use qio::{Address, Channel, ChannelExt};
use qio_testkit::certs::{Authority, Wanted};
use qio_testkit::{Job, finished, soon};

// What the NBD protocol calls these.
const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const FIXED_NEWSTYLE_NO_ZEROES: u16 = 3;
const OPT_ABORT: u32 = 2;
const OPT_STARTTLS: u32 = 5;
const OPT_INFO: u32 = 6;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_ERR_UNSUP: u32 = 0x8000_0001;
const REP_ERR_TLS_REQD: u32 = 0x8000_0005;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const CMD_READ: u16 = 0;
const CMD_DISC: u16 = 2;
/// The flags are there, and it is read-only.
const TRANSMISSION_FLAGS: u16 = 3;

const EXPORT: &str = "disk";
const SIZE: usize = 1 << 20;

/// The content of the disk.
fn disk() -> Vec<u8> {
    (0..SIZE).map(|at| (at / 251 + at * 7) as u8).collect()
}

/// An authority in QEMU's layout, with certificates of both roles; Bob is let in nowhere.
fn credentials(folder: &Path) {
    let authority = Authority::new("authority");
    let write = |folder: &Path, name: &str, text: &str| {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join(name), text).unwrap();
    };
    for (place, client) in [("ann", "ann"), ("bob", "bob")] {
        let place = folder.join(place);
        write(&place, "ca-cert.pem", &authority.certificate());
        for (role, name, names) in
            [("server", "server", &["localhost"][..]), ("client", client, &["client.example"])]
        {
            let issued = authority.issue(Wanted::new(name, names));
            write(&place, &format!("{role}-cert.pem"), &issued.certificate);
            write(&place, &format!("{role}-key.pem"), &issued.key);
        }
    }
}

fn number<const N: usize>(from: &dyn Channel) -> [u8; N] {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes).unwrap();
    bytes
}

fn u32_of(from: &dyn Channel) -> u32 {
    u32::from_be_bytes(number(from))
}

fn u64_of(from: &dyn Channel) -> u64 {
    u64::from_be_bytes(number(from))
}

fn text_of(from: &dyn Channel, len: u32) -> Vec<u8> {
    assert!(len <= 4096, "an option of {len} bytes");
    let mut bytes = vec![0; len as usize];
    from.read_exact(&mut bytes).unwrap();
    bytes
}

/// Sends an option, and gives its replies up to the last one.
fn ask(server: &dyn Channel, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut request = IHAVEOPT.to_be_bytes().to_vec();
    request.extend(option.to_be_bytes());
    request.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
    request.extend(data);
    server.write_all(&request).unwrap();
    let mut replies = Vec::new();
    loop {
        assert_eq!((u64_of(server), u32_of(server)), (REPLY_MAGIC, option));
        let (kind, len) = (u32_of(server), u32_of(server));
        replies.push((kind, text_of(server, len)));
        if kind != REP_INFO {
            return replies;
        }
    }
}

/// The data of `OPT_GO` for the export.
fn export() -> Vec<u8> {
    let len = u32::try_from(EXPORT.len()).unwrap().to_be_bytes();
    [&len[..], EXPORT.as_bytes(), &[0, 0]].concat()
}

/// A program that does not outlive its test.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_client_upgrades_a_live_connection_to_qemu_nbd() {
    if !is_installed("qemu-nbd") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    credentials(folder);
    let (image, socket) = (folder.join("image"), folder.join("socket"));
    fs::write(&image, disk()).unwrap();
    let credentials = format!("tls-creds-x509,id=t,endpoint=server,dir={}/ann", folder.display());
    let mut server = Command::new("qemu-nbd");
    server.args(["--object", &credentials, "--tls-creds", "t", "--read-only", "--persistent"]);
    server.args(["--format", "raw", "--export-name", EXPORT, "--socket"]).arg(&socket).arg(&image);
    let _server = Guard(server.stdin(Stdio::null()).spawn().unwrap());

    let settings = ClientSettings::new().directory(folder.join("ann"));
    let config = settings.build().unwrap();
    let name = settings.server_name(Some("localhost")).unwrap();
    let address: Address = format!("unix:{}?retry=50", socket.display()).parse().unwrap();
    let options = ConnectOptions::new();
    let below = net::connect(&address, &options).unwrap();
    assert_eq!((u64_of(&*below), u64_of(&*below)), (NBDMAGIC, IHAVEOPT));
    let flags: [u8; 2] = number(&*below);
    assert_eq!(u16::from_be_bytes(flags) & FIXED_NEWSTYLE_NO_ZEROES, FIXED_NEWSTYLE_NO_ZEROES);
    below.write_all(&u32::from(FIXED_NEWSTYLE_NO_ZEROES).to_be_bytes()).unwrap();
    // Nothing is served in the clear.
    assert_eq!(ask(&*below, OPT_GO, &export())[0].0, REP_ERR_TLS_REQD);
    assert_eq!(ask(&*below, OPT_STARTTLS, &[]), [(REP_ACK, vec![])]);

    let handshake = tls::client(Arc::clone(&below), config, name, soon()).unwrap();
    let channel = finished(handshake).into_layer(tls::NAME);
    let facts = channel.with_engine(|engine| engine.facts());
    assert_eq!(facts.peer_subject(), Some("O=Example,CN=server"));
    let replies = ask(&channel, OPT_GO, &export());
    let size = u64::try_from(SIZE).unwrap().to_be_bytes();
    let told = |(kind, data): &(u32, Vec<u8>)| *kind == REP_INFO && data[2..].starts_with(&size);
    assert!(replies.iter().any(told), "{replies:?}");
    assert_eq!(replies.last(), Some(&(REP_ACK, vec![])));

    let expected = disk();
    for (offset, len) in [(0, 512), (4096, 65_536), (SIZE / 2, SIZE / 2)] {
        request(&channel, CMD_READ, offset, len);
        assert_eq!((u32_of(&channel), u32_of(&channel)), (SIMPLE_REPLY_MAGIC, 0));
        assert_eq!(u64_of(&channel), offset as u64);
        let mut data = vec![0; len];
        channel.read_exact(&mut data).unwrap();
        assert!(data == expected[offset..][..len], "other bytes at {offset}");
    }
    request(&channel, CMD_DISC, 0, 0);
    // That is the end: versions of QEMU differ in whether close_notify comes before it.
    match channel.read(&mut [0]) {
        Ok(count) => assert_eq!(count, 0),
        Err(error) => assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{error}"),
    }
}

/// Sends a request whose handle is its offset.
fn request(to: &dyn Channel, command: u16, offset: usize, len: usize) {
    let mut request = REQUEST_MAGIC.to_be_bytes().to_vec();
    request.extend([0, 0]);
    request.extend(command.to_be_bytes());
    request.extend((offset as u64).to_be_bytes());
    request.extend((offset as u64).to_be_bytes());
    request.extend(u32::try_from(len).unwrap().to_be_bytes());
    to.write_all(&request).unwrap();
}

/// What came of the connection of a client.
#[derive(Debug)]
struct Served {
    facts: Facts,
    bytes: usize,
}

/// Serves one client: in the clear nothing but the upgrade, then the disk, read-only.
fn serve(below: Arc<dyn Channel>, settings: &ServerSettings) -> std::io::Result<Served> {
    let hello = [&NBDMAGIC.to_be_bytes()[..], &IHAVEOPT.to_be_bytes(), &[0, 3]].concat();
    below.write_all(&hello)?;
    assert_eq!(u32_of(&*below), u32::from(FIXED_NEWSTYLE_NO_ZEROES));
    loop {
        let (option, _) = option(&*below);
        if option == OPT_STARTTLS {
            break reply(&*below, option, REP_ACK, &[])?;
        }
        reply(&*below, option, REP_ERR_TLS_REQD, &[])?;
    }
    let handshake = tls::server(below, settings.build().unwrap(), soon())?;
    let done = qio::watch::run(handshake, None)?.break_value().expect("there is no deadline here");
    let channel = done?.into_layer(tls::NAME);
    let facts = channel.with_engine(|engine| engine.facts());
    let disk = disk();
    loop {
        let (option, _) = option(&channel);
        match option {
            OPT_INFO | OPT_GO => {
                let size = u64::try_from(SIZE).unwrap().to_be_bytes();
                let info = [&[0, 0][..], &size, &TRANSMISSION_FLAGS.to_be_bytes()].concat();
                reply(&channel, option, REP_INFO, &info)?;
                reply(&channel, option, REP_ACK, &[])?;
                if option == OPT_GO {
                    break;
                }
            }
            OPT_ABORT => {
                reply(&channel, option, REP_ACK, &[])?;
                channel.finish_all(soon())?;
                return Ok(Served { facts, bytes: 0 });
            }
            _ => reply(&channel, option, REP_ERR_UNSUP, &[])?,
        }
    }
    let mut bytes = 0;
    loop {
        assert_eq!(u32_of(&channel), REQUEST_MAGIC);
        let [_, _, high, low] = number(&channel);
        let (handle, offset, len) = (u64_of(&channel), u64_of(&channel), u32_of(&channel));
        match u16::from_be_bytes([high, low]) {
            CMD_READ => {
                let part = &disk[usize::try_from(offset).unwrap()..][..len as usize];
                bytes += part.len();
                let header =
                    [&SIMPLE_REPLY_MAGIC.to_be_bytes()[..], &[0; 4], &handle.to_be_bytes()];
                channel.write_all(&header.concat())?;
                channel.write_all(part)?;
            }
            CMD_DISC => {
                channel.finish_all(soon())?;
                return Ok(Served { facts, bytes });
            }
            other => panic!("command {other} on a disk that is read-only"),
        }
    }
}

fn option(from: &dyn Channel) -> (u32, Vec<u8>) {
    assert_eq!(u64_of(from), IHAVEOPT);
    let (option, len) = (u32_of(from), u32_of(from));
    (option, text_of(from, len))
}

fn reply(to: &dyn Channel, option: u32, kind: u32, data: &[u8]) -> std::io::Result<()> {
    let mut reply = REPLY_MAGIC.to_be_bytes().to_vec();
    reply.extend(option.to_be_bytes());
    reply.extend(kind.to_be_bytes());
    reply.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
    reply.extend(data);
    to.write_all(&reply)
}

/// Runs a client against a server of ours that lets in Ann alone.
fn client(folder: &Path, command: &mut Command) -> (Output, std::io::Result<Served>) {
    let socket = folder.join("socket");
    let address = Address::unix(&socket).listening();
    let listener = net::listen(&address, &ListenOptions::new()).unwrap();
    let settings = ServerSettings::new()
        .directory(folder.join("ann"))
        .authorization(Authorization::deny_others().allow_subject(Pattern::glob("*CN=ann")));
    let server = Job::start(move || {
        let below = listener.accept(soon()).unwrap().channel;
        serve(below, &settings)
    });
    let process = Guard(
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap(),
    );
    // It ends when its server does: killed, if that hangs.
    let served = server.finish();
    let mut process = process;
    let output = collect(&mut process.0);
    (output, served)
}

fn collect(process: &mut Child) -> Output {
    let read = |mut from: Box<dyn std::io::Read + Send>| {
        Job::start(move || {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes).unwrap();
            bytes
        })
    };
    let stdout = read(Box::new(process.stdout.take().unwrap())).finish();
    let stderr = read(Box::new(process.stderr.take().unwrap())).finish();
    Output { status: process.wait().unwrap(), stdout, stderr }
}

/// The address of the server for libnbd, with the certificates of somebody.
fn uri(folder: &Path, who: &str) -> String {
    let folder = folder.display();
    format!("nbds+unix:///{EXPORT}?socket={folder}/socket&tls-certificates={folder}/{who}")
}

#[test]
fn nbdinfo_and_nbdcopy_upgrade_their_connections_to_a_server_of_ours() {
    if !is_installed("nbdinfo") || !is_installed("nbdcopy") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    credentials(folder);
    let (output, served) =
        client(folder, Command::new("nbdinfo").arg("--json").arg(uri(folder, "ann")));
    assert!(output.status.success(), "{output:?}");
    assert_eq!(served.unwrap().facts.peer_subject(), Some("O=Example,CN=ann"));
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["\"TLS\": true", "\"export-size\": 1048576", "\"is_read_only\": true"] {
        assert!(text.contains(part), "{part}: {text}");
    }

    let copy = folder.join("copy");
    let mut nbdcopy = Command::new("nbdcopy");
    nbdcopy.args(["--connections=1", &uri(folder, "ann")]).arg(&copy);
    let (output, served) = client(folder, &mut nbdcopy);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(served.unwrap().bytes, SIZE);
    assert!(fs::read(copy).unwrap() == disk(), "the copy has other bytes");

    // A good certificate, and not let in.
    let (output, served) = client(folder, Command::new("nbdinfo").arg(uri(folder, "bob")));
    assert!(!output.status.success(), "{output:?}");
    let error = served.unwrap_err();
    assert!(matches!(tls::TlsError::find(&error), Some(tls::TlsError::Denied(_))), "{error}");
}

#[test]
fn qemu_img_converts_a_disk_of_a_server_of_ours() {
    if !is_installed("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    credentials(folder);
    let credentials = format!("tls-creds-x509,id=t,endpoint=client,dir={}/ann", folder.display());
    let socket = folder.join("socket");
    let source = format!(
        "driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={},file.export={EXPORT},\
         file.tls-creds=t,file.tls-hostname=localhost",
        socket.display()
    );
    let copy = folder.join("copy");
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "--object", &credentials, "--image-opts", &source]);
    convert.args(["-O", "raw"]).arg(&copy);
    let (output, served) = client(folder, &mut convert);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(served.unwrap().facts.peer_subject(), Some("O=Example,CN=ann"));
    assert!(fs::read(copy).unwrap() == disk(), "the copy has other bytes");
}
