//! The user that the process goes on as once nothing is left that takes root.

use std::str::FromStr;
use std::sync::Once;
use std::{fmt, io};

use caps::Capability;
use rustix::process::{
    DumpableBehavior, parent_process_death_signal, set_dumpable_behavior, set_parent_process_death_signal,
};
use rustix::thread::{
    Gid, Uid, set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

/// A user and a group, in numbers: the image has no names for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    uid: u32,
    gid: u32,
}

impl User {
    /// Of the kernel's overflow numbers (`overflowuid`): owns nothing, and is in no group.
    const NOBODY: Self = Self { uid: 65_534, gid: 65_534 };
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

impl FromStr for User {
    type Err = &'static str;

    /// `UID` or `UID:GID`; without a group, the one of the same number.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (uid, gid) = text.split_once(':').unwrap_or((text, text));
        number(uid)
            .zip(number(gid))
            .map(|(uid, gid)| Self { uid, gid })
            .ok_or("not a user: write UID or UID:GID in numbers, as in 65534:65534")
    }
}

/// The highest number stands for "as it was" (setresuid(2)).
fn number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number != u32::MAX)
}

/// What becomes of the user once the process is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextUser {
    /// `None` stays what it is.
    user: Option<User>,
    /// Named by whoever started us, so it must come true.
    named: bool,
}

impl NextUser {
    /// What changing the user takes.
    pub(crate) const NEEDED: [Capability; 2] = [Capability::CAP_SETUID, Capability::CAP_SETGID];

    /// Root becomes the user that is `named`, or nobody; everybody else stays what it is.
    ///
    /// # Errors
    /// What is wrong with naming another user without being root.
    pub(crate) fn of_this_process(named: Option<User>) -> Result<Self, String> {
        let [real, effective, saved] = user_ids();
        let is_root = [real, effective, saved].contains(&0);
        let own = User { uid: real, gid: rustix::process::getgid().as_raw() };
        Self::after(is_root, own, named)
    }

    fn after(is_root: bool, own: User, named: Option<User>) -> Result<Self, String> {
        let stays = Self { user: None, named: named.is_some() };
        match named {
            None if is_root => Ok(Self { user: Some(User::NOBODY), named: false }),
            // Whoever asks for root is left alone.
            Some(User { uid: 0, .. }) if is_root => Ok(stays),
            Some(user) if is_root => Ok(Self { user: Some(user), named: true }),
            Some(user) if user != own => Err(format!("only root becomes somebody else, and this is {own}")),
            _ => Ok(stays),
        }
    }

    /// Whether there is anything to change.
    pub(crate) const fn changes(self) -> bool {
        self.user.is_some()
    }

    /// Changes the calling thread's users and groups, real, effective and saved, for good; no supplementary group stays. Permitted
    /// capabilities do, and [`super::sandbox::keep_only`] comes next.
    ///
    /// The kernel makes a process that has done this one that only root traces or dumps. What it reads of itself in /proc needs
    /// no more than that it is itself.
    ///
    /// # Errors
    /// What the kernel said, if the user was named; otherwise a warning tells that this is still root.
    pub(crate) fn enter(self) -> io::Result<()> {
        static TOLD: Once = Once::new();
        let Some(user) = self.user else { return Ok(()) };
        match user.become_it() {
            Err(error) if self.named => {
                Err(io::Error::new(error.kind(), format!("cannot become user {user}: {error}")))
            }
            Err(error) => {
                let who = if user_ids() == [user.uid; 3] { "its groups stay" } else { "still root" };
                TOLD.call_once(|| tracing::warn!("{who}: cannot become user {user}: {error}"));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

impl User {
    fn become_it(self) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        set_keep_capabilities(true)?;
        // The kernel forgets it with the user (prctl(2)); whoever asked for it still means it.
        let with_parent = parent_process_death_signal()?;
        // Each by itself: one that is refused makes no other worth less.
        let groups = set_thread_groups(&[]);
        let group = set_thread_res_gid(gid, gid, gid);
        set_thread_res_uid(uid, uid, uid)?;
        set_parent_process_death_signal(with_parent)?;
        // Whatever fs.suid_dumpable says.
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        Ok(groups.and(group)?)
    }
}

/// Real, effective and saved.
fn user_ids() -> [u32; 3] {
    let [mut real, mut effective, mut saved] = [0; 3];
    // SAFETY: three pointers to live numbers of the type the call fills in. It has no other way to fail.
    unsafe { libc::getresuid(&raw mut real, &raw mut effective, &raw mut saved) };
    [real, effective, saved]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_one_number_or_two() {
        let user = |uid, gid| Ok(User { uid, gid });
        assert_eq!("1000".parse::<User>(), user(1000, 1000));
        assert_eq!("65534:0".parse::<User>(), user(65_534, 0));
        for text in ["", ":", "1:", "nobody", "+1", "-1", "1:2:3", "4294967295", "1:4294967295", "4294967296"]
        {
            assert!(text.parse::<User>().is_err(), "{text}");
        }
    }

    #[test]
    fn root_becomes_nobody_or_whom_it_names_and_everybody_else_stays() {
        let [root, other, third] = [0, 1000, 65_532].map(|id| User { uid: id, gid: id });
        let next = |is_root, own, named| NextUser::after(is_root, own, named).map(|next| next.user);
        assert_eq!(next(true, root, None), Ok(Some(User::NOBODY)));
        assert_eq!(next(true, root, Some(other)), Ok(Some(other)));
        assert_eq!(next(true, root, Some(root)), Ok(None), "asked for");
        // A program that is root's by its file's mode.
        assert_eq!(next(true, other, None), Ok(Some(User::NOBODY)));
        assert_eq!(next(false, third, None), Ok(None));
        assert_eq!(next(false, third, Some(third)), Ok(None));
        let refused = next(false, third, Some(other)).unwrap_err();
        assert_eq!(refused, "only root becomes somebody else, and this is 65532:65532");
        assert!(next(false, third, Some(root)).is_err());
    }
}
