//! Addresses of virtual sockets, vsock(7).

use std::mem::offset_of;

/// Reads a `sockaddr_vm` as the kernel fills it: the context id and the port.
///
/// `None` for bytes of another family, or too few of them.
pub fn parse_vsock_address(bytes: &[u8]) -> Option<(u32, u32)> {
    let field = |at: usize| bytes.get(at..)?.first_chunk::<4>().copied().map(u32::from_ne_bytes);
    let family = bytes.first_chunk::<2>().copied().map(u16::from_ne_bytes)?;
    if i32::from(family) != libc::AF_VSOCK {
        return None;
    }
    let cid = field(offset_of!(libc::sockaddr_vm, svm_cid))?;
    Some((cid, field(offset_of!(libc::sockaddr_vm, svm_port))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `struct sockaddr_vm` of `include/uapi/linux/vm_sockets.h` has them.
    fn address(family: u16, port: u32, cid: u32) -> Vec<u8> {
        let mut bytes = family.to_ne_bytes().to_vec();
        bytes.extend([0; 2]);
        bytes.extend(port.to_ne_bytes());
        bytes.extend(cid.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes
    }

    #[test]
    fn a_vsock_address_has_its_port_before_its_context() {
        let any = address(40, 1024, u32::MAX);
        assert_eq!(parse_vsock_address(&any), Some((u32::MAX, 1024)));
        assert_eq!(parse_vsock_address(&any[..12]), Some((u32::MAX, 1024)));
        for short in 0..12 {
            assert_eq!(parse_vsock_address(&any[..short]), None);
        }
        assert_eq!(parse_vsock_address(&address(1, 1024, 2)), None);
    }
}
