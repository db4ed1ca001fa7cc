//! Telling a service manager how far the node is (sd_notify(3)): one datagram to the socket it names.

#[cfg(unix)]
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Tells it, where a service manager listens. A manager that does not hear is no fault of ours.
pub fn tell(state: &str) {
    #[cfg(unix)]
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET")
        && let Err(error) = send(socket.as_encoded_bytes(), state)
    {
        tracing::debug!(%error, "the service manager was not told");
    }
    #[cfg(not(unix))]
    let _ = state;
}

#[cfg(unix)]
fn send(socket: &[u8], state: &str) -> std::io::Result<()> {
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address(socket)?).map(drop)
}

/// A path, or after an `@` a name in Linux's abstract space.
#[cfg(unix)]
fn address(socket: &[u8]) -> std::io::Result<SocketAddr> {
    use std::os::unix::ffi::OsStrExt as _;
    match socket.strip_prefix(b"@") {
        #[cfg(target_os = "linux")]
        Some(name) => <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name),
        _ => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(socket)),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::linux::net::SocketAddrExt as _;

    use super::*;

    #[test]
    fn a_manager_hears_at_a_path_and_at_an_abstract_name() {
        let directory = tempfile::tempdir().expect("writable");
        let path = directory.path().join("notify");
        let name = format!("kinfold-test-{}", std::process::id());
        let at_path = UnixDatagram::bind(&path).expect("free");
        let abstract_address = SocketAddr::from_abstract_name(&name).expect("short");
        let at_name = UnixDatagram::bind_addr(&abstract_address).expect("free");

        send(path.as_os_str().as_encoded_bytes(), "READY=1").expect("somebody listens");
        send(format!("@{name}").as_bytes(), "READY=1").expect("somebody listens");

        for socket in [at_path, at_name] {
            let mut heard = [0; 32];
            let length = socket.recv(&mut heard).expect("it was sent");
            assert_eq!(&heard[..length], b"READY=1");
        }
        assert!(send(b"/nowhere/at/all", "READY=1").is_err());
    }
}
