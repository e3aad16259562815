//! What both ends may still do once they are set up.

use crate::cli::rights::RightsArgs;
use crate::config::error::ConfigError;
use crate::sys::user::NextUser;

/// Whom the process becomes.
pub(super) fn next_user(args: RightsArgs) -> Result<NextUser, ConfigError> {
    NextUser::of_this_process(args.user).map_err(|remedy| {
        ConfigError::new("--user", args.user.map(|user| user.to_string()).unwrap_or_default(), remedy)
    })
}
