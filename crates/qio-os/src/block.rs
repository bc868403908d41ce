//! Block devices.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `BLKGETSIZE64`, `include/uapi/linux/fs.h`; its number encodes a `size_t`, its result is a u64.
const BLKGETSIZE64: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<usize>(0x12, 114);

/// How many bytes a block device holds, without moving the position of the open file.
///
/// # Errors
///
/// What ioctl(2) reports: `ENOTTY` for anything but a block device.
pub fn block_device_len(device: BorrowedFd<'_>) -> io::Result<u64> {
    let mut bytes = 0u64;
    // SAFETY: BLKGETSIZE64 writes one u64 through the pointer, which is valid for that; a
    // descriptor that is no block device refuses the request, whose number no other class uses.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), BLKGETSIZE64 as _, &raw mut bytes) };
    if result == 0 { Ok(bytes) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn only_block_devices_have_a_device_length() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let error = block_device_len(file.as_fd()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
    }

    #[test]
    fn the_length_of_a_block_device_is_what_sysfs_says() {
        // Needs the right to open one, and says nothing where there is none.
        let Ok(devices) = std::fs::read_dir("/sys/class/block") else { return };
        for device in devices.flatten() {
            let path = std::path::Path::new("/dev").join(device.file_name());
            let sectors = std::fs::read_to_string(device.path().join("size")).unwrap();
            let Ok(file) = std::fs::File::open(path) else { continue };
            let bytes = sectors.trim().parse::<u64>().unwrap() * 512;
            assert_eq!(block_device_len(file.as_fd()).unwrap(), bytes);
        }
    }
}
