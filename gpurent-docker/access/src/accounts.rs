//! The accounts of the container: the login user's, the image's program's, and what `sshd` is told of both.
//!
//! `sshd` reads accounts from files of ours in [`RUN`], so that a login depends neither on what the image's
//! `/etc/passwd` is nor on its name services. The image's own files are completed where they can be, since `whoami`,
//! `sudo` and the like read those.

use std::io;
use std::path::{Path, PathBuf};

use crate::files;
use crate::paths::{KIT, RUN};
use crate::spec::{Credential, Spec};

/// A line of `/etc/passwd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) comment: String,
    pub(crate) home: String,
    pub(crate) shell: String,
}

impl Account {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(':');
        let mut next = || fields.next().map(str::to_owned);
        let (name, _password) = (next()?, next()?);
        let (uid, gid) = (next()?.parse().ok()?, next()?.parse().ok()?);
        Some(Self {
            name,
            uid,
            gid,
            comment: next().unwrap_or_default(),
            home: next().unwrap_or_default(),
            shell: next().unwrap_or_default(),
        })
    }

    fn line(&self, shell: &str) -> String {
        let Self { name, uid, gid, comment, home, .. } = self;
        format!("{name}:x:{uid}:{gid}:{comment}:{home}:{shell}\n")
    }
}

/// A line of `/etc/group`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) gid: u32,
    pub(crate) members: Vec<String>,
}

impl Group {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?.to_owned(), fields.next()?);
        let gid = fields.next()?.parse().ok()?;
        let members = fields.next().unwrap_or_default().split(',').filter(|name| !name.is_empty());
        Some(Self { name, gid, members: members.map(str::to_owned).collect() })
    }
}

/// The accounts that an image brought. What cannot be read is as good as empty.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accounts {
    users: Vec<Account>,
    groups: Vec<Group>,
}

impl Accounts {
    pub(crate) fn of_image() -> Self {
        let read = |path: &str| files::read(Path::new(path)).unwrap_or_default();
        Self::parse(&read("/etc/passwd"), &read("/etc/group"))
    }

    fn parse(users: &str, groups: &str) -> Self {
        Self {
            users: users.lines().filter_map(Account::parse).collect(),
            groups: groups.lines().filter_map(Group::parse).collect(),
        }
    }

    fn user(&self, name: &str) -> Option<&Account> {
        self.users.iter().find(|user| user.name == name)
    }

    fn groups_of(&self, user: &str) -> Vec<u32> {
        self.groups
            .iter()
            .filter(|group| group.members.iter().any(|name| name == user))
            .map(|group| group.gid)
            .collect()
    }

    /// The account that the renter logs in as: the image's, with what it lacks, or one that is made up.
    pub(crate) fn login(&self, name: &str) -> Account {
        let default_home = if name == "root" { "/root".to_owned() } else { format!("/home/{name}") };
        let mut account = self.user(name).cloned().unwrap_or_else(|| {
            let uid = if name == "root" {
                0
            } else {
                let taken = |id: u32| {
                    self.users.iter().any(|user| user.uid == id) || self.groups.iter().any(|group| group.gid == id)
                };
                (1000..60_000).find(|id| !taken(*id)).unwrap_or(60_000)
            };
            let gid = self.groups.iter().find(|group| group.name == name).map_or(uid, |group| group.gid);
            let comment = String::new();
            Account { name: name.to_owned(), uid, gid, comment, home: default_home.clone(), shell: String::new() }
        });
        if !account.home.starts_with('/') || account.home == "/nonexistent" || account.home == "/dev/null" {
            account.home = default_home;
        }
        if !is_login_shell(&account.shell) {
            account.shell = shell_of_image();
        }
        account
    }

    /// The user that the image's program runs as, by the rules of `docker run --user`
    /// (<https://docs.docker.com/reference/dockerfile/#user>): names or numbers, perhaps with a group.
    pub(crate) fn program(&self, user: &str) -> Result<ProgramUser, String> {
        let (user, group) = user.split_once(':').map_or((user, ""), |(user, group)| (user, group));
        let user = if user.is_empty() { "root" } else { user };
        let number: Option<u32> = user.parse().ok();
        let found = self.users.iter().find(|account| account.name == user || Some(account.uid) == number);
        let (uid, gid, home) = match (found, number) {
            (Some(account), _) => (account.uid, account.gid, account.home.clone()),
            (None, Some(uid)) => (uid, 0, "/".to_owned()),
            (None, None) if user == "root" => (0, 0, "/root".to_owned()),
            (None, None) => return Err(format!("the image's user {user:?} is not in its /etc/passwd")),
        };
        if group.is_empty() {
            let groups = found.map(|account| self.groups_of(&account.name)).unwrap_or_default();
            return Ok(ProgramUser::new(uid, gid, groups, home));
        }
        let number: Option<u32> = group.parse().ok();
        let found = self.groups.iter().find(|found| found.name == group || Some(found.gid) == number);
        let gid = found.map(|found| found.gid).or(number);
        let gid = gid.ok_or_else(|| format!("the image's group {group:?} is not in its /etc/group"))?;
        Ok(ProgramUser::new(uid, gid, Vec::new(), home))
    }

    /// Completes the image's own files, for whatever reads those. An image that does not let itself be changed is left
    /// as it is: nobody's login depends on it.
    pub(crate) fn complete(&self, login: &Account, login_is_given: bool) -> Vec<String> {
        let mut notes = Vec::new();
        let mut note = |path: &str, done: io::Result<()>| {
            if let Err(error) = done {
                notes.push(format!("{path} was left as it is: {error}"));
            }
        };
        let mut users = String::new();
        if self.user("root").is_none() && login.name != "root" {
            users.push_str(&format!("root:x:0:0:root:/root:{}\n", login.shell));
        }
        match self.user(&login.name) {
            None => users.push_str(&login.line(&login.shell)),
            Some(found) if found.shell != login.shell || found.home != login.home => {
                note("/etc/passwd", replace_line("/etc/passwd", &login.name, &login.line(&login.shell)));
            }
            Some(_) => {}
        }
        note("/etc/passwd", append("/etc/passwd", &users, 0o644));
        if !self.groups.iter().any(|group| group.gid == login.gid) {
            note("/etc/group", append("/etc/group", &format!("{}:x:{}:\n", login.name, login.gid), 0o644));
        }
        // sudo refuses whom the file of passwords does not know; the password itself is in a file of ours.
        if !login_is_given && login.uid != 0 && Path::new("/etc/shadow").exists() {
            note("/etc/shadow", append("/etc/shadow", &format!("{}:!:19000:0:99999:7:::\n", login.name), 0o640));
        }
        notes
    }

    /// Whether the image brought an account of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.user(name).is_some()
    }

    /// The files that `sshd` takes for the system's accounts: the login user with our session program as its shell, the user
    /// that `sshd` gives its rights up to, and the image's others for their names alone.
    pub(crate) fn write_for_sshd(&self, login: &Account, credential: &Credential) -> io::Result<()> {
        let run = Path::new(RUN);
        let session = format!("{KIT}/session");
        let mut users = login.line(&session);
        users.push_str("sshd:x:65533:65533::/:/none\n");
        for other in self.users.iter().filter(|user| user.name != login.name && user.name != "sshd") {
            users.push_str(&other.line("/none"));
        }
        files::replace(&run.join("passwd"), users.as_bytes(), 0o644)?;
        let mut groups = String::from("sshd:x:65533:\n");
        for group in self.groups.iter().filter(|group| group.name != "sshd") {
            groups.push_str(&format!("{}:x:{}:{}\n", group.name, group.gid, group.members.join(",")));
        }
        files::replace(&run.join("group"), groups.as_bytes(), 0o644)?;
        let hash = match credential {
            Credential::Password(hash) => hash.as_str(),
            Credential::Keys(_) => "*",
        };
        files::replace(&run.join("shadow"), format!("{}:{hash}:19000:0:99999:7:::\n", login.name).as_bytes(), 0o600)?;
        let services =
            "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nservices: files\n";
        files::replace(&run.join("nsswitch.conf"), services.as_bytes(), 0o644)
    }

    /// All groups of the login user, its own first.
    pub(crate) fn login_groups(&self, login: &Account) -> Vec<u32> {
        let mut groups = vec![login.gid];
        groups.extend(self.groups_of(&login.name).into_iter().filter(|gid| *gid != login.gid));
        groups
    }
}

/// Whom the image's program runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProgramUser {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

impl ProgramUser {
    /// The group that a user begins with is one of its groups, as with Docker since CVE-2022-36109.
    fn new(uid: u32, gid: u32, mut groups: Vec<u32>, home: String) -> Self {
        if !groups.contains(&gid) {
            groups.push(gid);
        }
        Self { uid, gid, groups, home }
    }

    /// Whether it is root without anything else, which is what we are.
    pub(crate) fn is_plain_root(&self) -> bool {
        self.uid == 0 && self.gid == 0 && self.groups == [0]
    }
}

fn is_login_shell(shell: &str) -> bool {
    let refuses = ["nologin", "false", "true", "sync", "halt", "shutdown"];
    let name = Path::new(shell).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    shell.starts_with('/') && !refuses.contains(&name.as_str()) && files::is_program(Path::new(shell))
}

/// A shell of the image, else the kit's.
fn shell_of_image() -> String {
    let candidates = [
        "/bin/bash",
        "/usr/bin/bash",
        "/usr/local/bin/bash",
        "/bin/zsh",
        "/usr/bin/zsh",
        "/bin/sh",
        "/usr/bin/sh",
        "/bin/ash",
    ];
    let found = candidates.into_iter().find(|path| files::is_program(Path::new(path)));
    found.map_or_else(|| format!("{KIT}/bin/sh"), str::to_owned)
}

/// Whether a shell is the kit's: then the image has no tools either.
pub(crate) fn is_kits(shell: &str) -> bool {
    shell.starts_with(KIT)
}

fn append(path: &str, lines: &str, mode: u32) -> io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut content = match files::read(Path::new(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        other => other?,
    };
    if !content.is_empty() && !content.ends_with('\n') {
        content.push('\n');
    }
    content.push_str(lines);
    files::rewrite(Path::new(path), &content, mode)
}

fn replace_line(path: &str, name: &str, line: &str) -> io::Result<()> {
    let content = files::read(Path::new(path))?;
    let others = content.lines().filter(|line| line.split(':').next() != Some(name));
    let content: String = others.flat_map(|line| [line, "\n"]).chain([line]).collect();
    files::rewrite(Path::new(path), &content, 0o644)
}

/// Makes the login user's home, and gives it to them where it is root's. A folder that belongs to another user of the
/// image stays theirs.
pub(crate) fn make_home(login: &Account) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let home = PathBuf::from(&login.home);
    let is_new = !home.exists();
    std::fs::create_dir_all(&home)?;
    // Never a folder of the system's, which an image's account may well call its home.
    let is_a_home = is_new || home.parent() == Some(Path::new("/home"));
    let found = std::fs::symlink_metadata(&home)?;
    if login.uid != 0 && is_a_home && found.is_dir() && found.uid() == 0 {
        std::os::unix::fs::lchown(&home, Some(login.uid), Some(login.gid))?;
    }
    Ok(())
}

/// Lets a named user become root where the operator allows it and the image has sudo.
pub(crate) fn allow_sudo(spec: &Spec, login: &Account) -> io::Result<()> {
    let folder = Path::new("/etc/sudoers.d");
    if !spec.sudo || login.uid == 0 || !folder.is_dir() {
        return Ok(());
    }
    let rule = format!("{} ALL=(ALL:ALL) NOPASSWD: ALL\n", login.name);
    files::replace(&folder.join("gpurent"), rule.as_bytes(), 0o440)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts::parse(
            "root:x:0:0:root:/root:/usr/sbin/nologin\napp:x:1234:1235::/srv:/bin/sh\nodd\nnobody:x:65534:65534::/nonexistent:/bin/false",
            "root:x:0:\napp:x:1235:\nvideo:x:44:app,other\nwww:x:33:\n",
        )
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_an_image_writes_breaks_a_reader(users in "[a-z0-9:,\\-\\n]{0,200}", groups: String, name in "[a-z]{1,8}") {
            let accounts = Accounts::parse(&users, &groups);
            let login = accounts.login(&name);
            assert!(login.home.starts_with('/') && login.shell.starts_with('/'));
            assert!(accounts.login_groups(&login).contains(&login.gid));
            drop(accounts.program(&groups));
        }
    }

    #[test]
    fn a_login_user_has_a_home_and_a_shell_whatever_the_image_says() {
        let root = accounts().login("root");
        assert_eq!((root.uid, root.home.as_str()), (0, "/root"));
        assert!(!root.shell.contains("nologin") && root.shell.starts_with('/'), "{root:?}");
        let made = accounts().login("gpu-user");
        assert_eq!((made.uid, made.gid, made.home.as_str()), (1000, 1000, "/home/gpu-user"));
        assert_eq!(accounts().login("nobody").home, "/home/nobody");
        assert_eq!(accounts().login_groups(&accounts().login("app")), [1235, 44]);
    }

    #[test]
    fn a_programs_user_is_read_as_docker_reads_it() {
        let as_user = |uid, gid, groups: &[u32], home: &str| {
            Ok(ProgramUser { uid, gid, groups: groups.to_vec(), home: home.to_owned() })
        };
        let of = |text: &str| accounts().program(text);
        assert_eq!(of(""), as_user(0, 0, &[0], "/root"));
        assert_eq!(of("app"), as_user(1234, 1235, &[44, 1235], "/srv"));
        assert_eq!(of("1234"), as_user(1234, 1235, &[44, 1235], "/srv"));
        assert_eq!(of("app:www"), as_user(1234, 33, &[33], "/srv"));
        assert_eq!(of("app:99"), as_user(1234, 99, &[99], "/srv"));
        assert_eq!(of("54321"), as_user(54321, 0, &[0], "/"));
        assert_eq!(of("54321:33"), as_user(54321, 33, &[33], "/"));
        assert!(of("nobody-here").is_err() && of("app:nothing").is_err());
        assert_eq!(Accounts::default().program("root:0"), as_user(0, 0, &[0], "/root"));
    }
}
