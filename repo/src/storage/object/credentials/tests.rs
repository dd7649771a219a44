use super::super::s3::Environment;
use super::*;
use std::fs::File;
use std::time::Duration;

#[derive(Debug)]
struct Role(Option<&'static str>);

#[async_trait]
impl CredentialProvider for Role {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        match self.0 {
            Some(key) => Ok(Arc::new(AwsCredential { key_id: key.into(), secret_key: "s".into(), token: None })),
            None => Err(object_store::Error::Generic { store: "role", source: "no role".into() }),
        }
    }
}

struct Home(tempfile::TempDir);

impl Home {
    fn new(credentials: &str, config: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".aws")).unwrap();
        let home = Self(home);
        home.write("credentials", credentials, 0);
        home.write("config", config, 0);
        home
    }

    /// Each write gets a time of its own, however fast they follow each other.
    fn write(&self, file: &str, text: &str, age: u64) {
        let path = self.0.path().join(".aws").join(file);
        std::fs::write(&path, text).unwrap();
        let time = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + age);
        File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }

    fn open(&self, option: Option<&str>, vars: &[(&str, &str)], role: Option<&'static str>) -> Credentials {
        let home = self.0.path().to_str().unwrap();
        let env = Environment::of(&[&[("HOME", home)], vars].concat());
        let profile = Profile::new(option.map(Into::into), &env);
        Credentials::new(profile, env, Arc::new(Role(role)))
    }
}

fn key(credentials: &Credentials) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    match runtime.block_on(credentials.get_credential()) {
        Ok(keys) => Ok(format!("{}/{}/{}", keys.key_id, keys.secret_key, keys.token.as_deref().unwrap_or("-"))),
        Err(error) => Err(error.to_string()),
    }
}

const FILE: &str = "[default]\naws_access_key_id = d\naws_secret_access_key=ds\n\
    [ work ]\n# no\naws_access_key_id=w\naws_secret_access_key = wsecret\naws_session_token = a=b==\n[other]\nregion=x\n";
const KEYS: &[(&str, &str)] = &[("AWS_ACCESS_KEY_ID", "e"), ("AWS_SECRET_ACCESS_KEY", "esecret")];

#[test]
fn an_option_goes_before_the_environment_before_a_profile_before_the_role() {
    let home = Home::new(FILE, "");
    let with = |option, vars: &[(&str, &str)]| key(&home.open(option, vars, Some("role")));
    assert_eq!(with(Some("work"), KEYS).unwrap(), "w/wsecret/a=b==");
    assert_eq!(with(None, KEYS).unwrap(), "e/esecret/-");
    assert_eq!(with(None, &[KEYS, &[("AWS_SESSION_TOKEN", "t")]].concat()).unwrap(), "e/esecret/t");
    assert_eq!(with(None, &[KEYS, &[("AWS_PROFILE", "work")]].concat()).unwrap(), "e/esecret/-");
    assert_eq!(with(None, &[("AWS_PROFILE", "work")]).unwrap(), "w/wsecret/a=b==");
    assert_eq!(with(None, &[]).unwrap(), "d/ds/-");
    assert_eq!(key(&Home::new("", "").open(None, &[], Some("role"))).unwrap(), "role/s/-");
}

#[test]
fn what_is_missing_is_named() {
    let home = Home::new(FILE, "[profile proc]\ncredential_process = x\n[profile half]\naws_access_key_id=1\n");
    for (option, vars, text) in [
        (Some("none"), &[][..], "no profile \"none\""),
        (Some("other"), &[], "holds no keys"),
        (Some("proc"), &[], "credential_process, which is not supported"),
        (Some("half"), &[], "only one of key id and secret"),
        (None, &KEYS[..1], "only one of AWS_ACCESS_KEY_ID"),
    ] {
        let error = key(&home.open(option, vars, None)).unwrap_err();
        assert!(error.contains(text), "{error}");
    }
    let error = key(&Home::new("", "").open(None, &[], None)).unwrap_err();
    assert!(error.contains("set AWS_ACCESS_KEY_ID") && error.contains("--s3-profile"), "{error}");
}

#[test]
fn files_are_read_again_when_they_change() {
    let home = Home::new(FILE, "");
    let credentials = home.open(Some("work"), &[], None);
    assert_eq!(key(&credentials).unwrap(), "w/wsecret/a=b==");
    home.write("credentials", &FILE.replace("= wsecret", "= new"), 1);
    assert_eq!(key(&credentials).unwrap(), "w/new/a=b==");
    // As long as before, and no later.
    home.write("credentials", &FILE.replace("= wsecret", "= old"), 1);
    assert_eq!(key(&credentials).unwrap(), "w/new/a=b==", "as it was: the same inode, size and time");
    home.write("credentials", &FILE.replace("= wsecret", "= older"), 1);
    assert_eq!(key(&credentials).unwrap(), "w/older/a=b==");
    home.write("credentials", "", 2);
    home.write("config", "[profile work]\naws_access_key_id=c\naws_secret_access_key=cs\nregion = eu\n", 3);
    assert_eq!(key(&credentials).unwrap(), "c/cs/-");
    assert_eq!(credentials.profile.settings().unwrap().region.as_deref(), Some("eu"));
}

/// Whoever renews it may write it in place: it is empty, or cut, for a moment, and the whole may come within the same tick.
#[test]
fn a_file_that_is_seen_half_way_ends_nothing() {
    let home = Home::new(FILE, "");
    for half in ["", "[work]\n", "[work]\naws_access_key_id=n\n"] {
        let credentials = home.open(Some("work"), &[], None);
        home.write("credentials", FILE, 0);
        assert_eq!(key(&credentials).unwrap(), "w/wsecret/a=b==");
        home.write("credentials", half, 1);
        assert_eq!(key(&credentials).unwrap(), "w/wsecret/a=b==", "{half:?}");
        credentials.read.lock().without = Instant::now().checked_sub(KEPT);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let error = runtime.block_on(credentials.get_credential()).unwrap_err();
        let given = crate::storage::object::cause::<NotGiven>(&error).unwrap();
        assert_eq!(given.kind, ErrorKind::Unavailable, "{half:?}: {error}");
        home.write("credentials", &FILE.replace("= wsecret", "= new"), 1);
        assert_eq!(key(&credentials).unwrap(), "w/new/a=b==", "{half:?}");
    }
    let path = home.0.path().join(".aws/credentials");
    let credentials = home.open(Some("work"), &[], None);
    std::fs::write(&path, FILE).unwrap();
    let now = path.metadata().unwrap().modified().unwrap();
    for secret in ["one", "two"] {
        std::fs::write(&path, FILE.replace("= wsecret", &format!("= {secret}"))).unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(now).unwrap();
        assert_eq!(key(&credentials).unwrap(), format!("w/{secret}/a=b=="), "of one size, inode and time");
    }
}

#[test]
fn secrets_are_not_shown() {
    let home = Home::new(FILE, "");
    let credentials = home.open(Some("work"), KEYS, None);
    key(&credentials).unwrap();
    let shown = format!("{credentials:?}");
    assert!(!shown.contains("secret") && !shown.contains("a=b"), "{shown}");
}
