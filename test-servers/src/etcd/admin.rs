//! Administration of a server with `etcdctl`, as a user with all rights.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use super::Server;
use crate::{Error, process};

const PROGRAM: &str = "etcdctl";
/// The user with all rights, if users are configured. The server is reachable from this machine only, and
/// only during a test.
const ROOT: &str = "root";
const PASSWORD: &str = "password-of-the-root-of-tests";

impl Server {
    /// Runs `etcdctl` with these arguments on this server, as a user with all rights, and returns its output.
    /// The program is searched beside the server's program first, then on the `PATH`.
    ///
    /// # Errors
    ///
    /// When `etcdctl` is not installed or fails. The error then contains its message.
    pub fn etcdctl(&self, arguments: &[&str]) -> Result<String, Error> {
        let with_users = !self.settings.users.is_empty();
        self.run(arguments, with_users)
    }

    /// Creates the configured users and enables authentication.
    pub(super) fn make_users(&self) -> Result<(), Error> {
        let users = &self.settings.users;
        if users.is_empty() {
            return Ok(());
        }
        let run = |arguments: &[&str]| self.run(arguments, false);
        run(&["user", "add", &format!("{ROOT}:{PASSWORD}")])?;
        run(&["user", "grant-role", ROOT, ROOT])?;
        for (index, user) in users.iter().enumerate() {
            let role = format!("role{index}");
            let secret = format!("{}:{}", user.name, user.password);
            run(&["user", "add", &secret])?;
            run(&["role", "add", &role])?;
            let grant = ["role", "grant-permission", "--prefix=true", &role];
            run(&[&grant[..], &["readwrite", &user.prefix]].concat())?;
            run(&["user", "grant-role", &user.name, &role])?;
        }
        run(&["auth", "enable"]).map(|_| ())
    }

    fn run(&self, arguments: &[&str], as_root: bool) -> Result<String, Error> {
        let program = self.control_program()?;
        let scheme = if self.settings.tls { "https" } else { "http" };
        let mut command = Command::new(&program);
        command
            .current_dir(self.directory())
            .stdin(Stdio::null())
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={scheme}://{}", self.address()))
            .args(["--dial-timeout=5s", "--command-timeout=10s"]);
        if self.settings.tls {
            command.args(["--cacert=ca.pem", "--cert=client.pem", "--key=client.key"]);
        }
        if as_root {
            command.arg(format!("--user={ROOT}:{PASSWORD}"));
        }
        let what = arguments.first().copied().unwrap_or_default();
        let failed = |why: String| {
            Error::new(format!(
                "`{PROGRAM} {what}` on the etcd server on port {}: {why}",
                self.port()
            ))
        };
        let output = command
            .args(arguments)
            .output()
            .map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(failed(said.trim().replace('\n', "; ")))
        }
    }

    fn control_program(&self) -> Result<PathBuf, Error> {
        let beside = self.program.with_file_name(PROGRAM);
        if beside.is_file() {
            return Ok(beside);
        }
        process::find(PROGRAM).ok_or_else(|| {
            Error::new(format!(
                "no `{PROGRAM}` found; install it (Debian: apt-get install etcd-client)"
            ))
        })
    }
}
