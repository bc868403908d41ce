//! A directory of certificates as QEMU has it.

use std::path::{Path, PathBuf};

use super::Identity;
use super::pem::is_there;
use crate::error::{Error, Result};

/// The files in a directory as `-object tls-creds-x509,dir=` has it: `ca-cert.pem`, `ca-crl.pem`,
/// and for each role `server-cert.pem` with `server-key.pem`, then `server-cert-0.pem` with
/// `server-key-0.pem` and so on. Or as `-object tls-creds-psk,dir=` has it: `keys.psk`.
#[derive(Clone, Debug)]
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    /// The certificate of the authority; whether it is there is seen by reading it.
    pub(super) fn authority(&self) -> PathBuf {
        self.0.join("ca-cert.pem")
    }

    /// The list of revoked certificates, if there is one.
    pub(super) fn revocations(&self) -> Option<PathBuf> {
        Some(self.0.join("ca-crl.pem")).filter(|path| is_there(path))
    }

    /// The pre-shared keys, if there are no certificates for this role.
    pub(super) fn keys(&self, role: &str) -> Option<PathBuf> {
        let certificates = [self.authority(), self.0.join(format!("{role}-cert.pem"))];
        let keys = self.0.join("keys.psk");
        (is_there(&keys) && !certificates.iter().any(|path| is_there(path))).then_some(keys)
    }

    /// The identities of a role.
    pub(super) fn identities(&self, role: &str) -> Result<Vec<Identity>> {
        let mut identities = Vec::new();
        let mut take = |suffix: &str| {
            let certificate = self.0.join(format!("{role}-cert{suffix}.pem"));
            let key = self.0.join(format!("{role}-key{suffix}.pem"));
            match (is_there(&certificate), is_there(&key)) {
                (true, true) => {
                    identities.push(Identity::files(certificate, key));
                    Ok(true)
                }
                (false, false) => Ok(false),
                (true, false) => Err(lonely(&certificate, &key)),
                (false, true) => Err(lonely(&key, &certificate)),
            }
        };
        take("")?;
        for index in 0.. {
            if !take(&format!("-{index}"))? {
                break;
            }
        }
        Ok(identities)
    }
}

fn lonely(is: &Path, is_not: &Path) -> Error {
    let reason = format!("{} does not exist, which belongs to it", is_not.display());
    Error::usage("read", is.display(), reason)
}
