//! `file:path`

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use super::{Example, OptionInfo, Scheme, check_path, path};
use crate::error::Result;
use crate::net::address::{Address, Form, Refusal, Value};
use crate::net::connect::{Opening, Request};
use crate::transport::File;

pub(crate) const SCHEME: Scheme = Scheme {
    name: "file",
    syntax: "file:PATH",
    summary: "a file; read only unless an option says otherwise",
    examples: &[
        Example::new("file:/etc/hosts", "read a file"),
        Example::new("file:app.log?append", "write at the end of a file, make it if need be"),
        Example::new("file:out?write&create=600&truncate", "write a file anew"),
    ],
    options: &[
        OptionInfo::new("read", Value::Switch, "open it for reading, also besides writing"),
        OptionInfo::new("write", Value::Switch, "open it for writing"),
        OptionInfo::new("append", Value::Switch, "write at the end, and make the file if need be"),
        OptionInfo::new(
            "create",
            Value::SwitchOrMode,
            "make the file if need be, with these permissions (else 666) less the umask",
        ),
        OptionInfo::new("truncate", Value::Switch, "empty the file first"),
        OptionInfo::new("exclusive", Value::Switch, "make the file, and fail if it is there"),
    ],
    form: Form::WORD,
    check: |address| check_path(address).and_then(|()| Access::of(address)).map(drop),
    connect,
    listen: None,
};

struct Access {
    read: bool,
    write: bool,
    append: bool,
    create: bool,
    truncate: bool,
    exclusive: bool,
}

impl Access {
    fn of(address: &Address) -> std::result::Result<Self, Refusal> {
        let [write, append, create, truncate, exclusive] =
            ["write", "append", "create", "truncate", "exclusive"].map(|key| address.switch(key));
        let contradiction =
            |one: &str, other: &str| Err(Refusal::new(format!("{one:?} contradicts {other:?}")));
        if append && truncate {
            return contradiction("truncate", "append");
        }
        if append && address.is_given("create") && !create {
            return contradiction("create=off", "append");
        }
        if exclusive && address.is_given("create") && !create {
            return contradiction("create=off", "exclusive");
        }
        let changes = [("create", create), ("truncate", truncate), ("exclusive", exclusive)];
        if let Some((key, _)) = changes.iter().find(|(_, given)| *given)
            && !write
            && !append
        {
            return Err(Refusal::new(format!("option {key:?} needs \"write\" or \"append\"")));
        }
        let read =
            if address.is_given("read") { address.switch("read") } else { !write && !append };
        if !read && !write && !append {
            return Err(Refusal::new("the file is to be neither read nor written"));
        }
        Ok(Self { read, write, append, create: create || append, truncate, exclusive })
    }
}

fn connect(address: &Address, request: &Request<'_>) -> Result<Opening> {
    let access = Access::of(address).map_err(|refusal| refusal.of("open", request.address()))?;
    let mut options = OpenOptions::new();
    options
        .read(access.read)
        .write(access.write)
        .append(access.append)
        .create(access.create)
        .truncate(access.truncate)
        .create_new(access.exclusive);
    if let Some(mode) = address.file_mode("create") {
        options.mode(mode);
    }
    Ok(Opening::Ready(Arc::new(File::open(path(address), &options)?)))
}
