use super::*;

#[test]
fn a_socket_of_a_living_process_is_not_taken_and_its_owner_is_named() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("api.sock");
    // Left by a killed process.
    drop(UnixListener::bind(&path).unwrap());
    let (listener, socket) = bind_unix(&path).unwrap();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!(meta.permissions().mode() & 0o777, 0o660);
    let told = bind_unix(&path).unwrap_err().to_string();
    assert!(
        told.contains(&format!("process {}", std::process::id())) && told.contains("api.socket"),
        "{told}"
    );
    assert_eq!(fs::metadata(&path).unwrap().ino(), meta.ino());
    drop((listener, socket));
    assert!(!path.exists());
}

#[test]
fn a_socket_whose_owner_takes_no_connections_is_in_use_all_the_same() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("api.sock");
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let waiting: Vec<_> = (0..2).map(|_| is_in_use(&path).unwrap()).collect();
    assert_eq!(waiting, [true, true]);
}

#[test]
fn a_tcp_address_is_bound_once() {
    let first = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = first.local_addr().unwrap();
    let told = bind_tcp(address).unwrap_err().to_string();
    assert!(told.contains(&address.to_string()), "{told}");
}
