//! The raw flags of what both ends may still do once they are set up.

use clap::Args;

use crate::sys::user::User;

/// Rights.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Rights")]
pub struct RightsArgs {
    /// Whom a process of root becomes once it is set up, in numbers; 0 stays root. Others stay who they are [default: 65534:65534]
    #[arg(long, value_name = "UID[:GID]")]
    pub user: Option<User>,
}
