//! What the target says on a stress connection, read from its socket.

use std::io;
use std::mem::MaybeUninit;

use rustix::net::{RecvFlags, recv};
use socket2::Socket;

use crate::client::stress::heard::Heard;

/// The error that ended a connection before the target said anything. What it said comes first, though an RST followed.
pub(crate) fn reset_without_one(socket: &Socket) -> Option<io::Error> {
    let mut byte = [MaybeUninit::<u8>::uninit(); 1];
    let replied = recv(socket, &mut byte, RecvFlags::DONTWAIT | RecvFlags::PEEK);
    match replied {
        Ok((bytes, _)) if !bytes.0.is_empty() => None,
        Err(error) if error != rustix::io::Errno::AGAIN => Some(error.into()),
        _ => socket.take_error().ok().flatten(),
    }
}

/// Reads what the target sent, and keeps only what that means; whether it was a denial.
pub(crate) fn read(socket: &Socket, heard: &mut Heard) -> bool {
    let mut room = [MaybeUninit::<u8>::uninit(); 512];
    let mut denied = false;
    // Edge-triggered: until there is no more.
    while let Ok((bytes, _)) = recv(socket, &mut room, RecvFlags::DONTWAIT) {
        let length = bytes.0.len();
        denied |= heard.read(bytes.0);
        if length < 512 {
            break;
        }
    }
    denied
}
