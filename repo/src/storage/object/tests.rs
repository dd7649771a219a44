use super::*;
use crate::storage::{Environment, Options, open};

fn refused(status: u16, code: &str) -> ErrorKind {
    Service::S3.meaning(&Refused { status, code: code.into(), message: String::new() }).0
}

#[test]
fn each_answer_has_its_meaning() {
    use ErrorKind::*;
    for (status, code, kind) in [
        (404, "NoSuchKey", NotFound),
        (404, "NoSuchBucket", NotFound),
        (409, "ConditionalRequestConflict", Conflict),
        (412, "PreconditionFailed", Conflict),
        (401, "", Denied),
        (403, "AccessDenied", Denied),
        (403, "RequestTimeTooSkewed", Denied),
        (400, "ExpiredToken", Denied),
        (403, "QuotaExceeded", Full),
        (507, "", Full),
        (500, "XMinioStorageFull", Full),
        (500, "InternalError", Unavailable),
        (503, "SlowDown", Unavailable),
        (429, "", Unavailable),
        (408, "", Unavailable),
        (400, "RequestTimeout", Unavailable),
        (400, "BadDigest", Unavailable),
        (400, "InvalidRequest", Invalid),
        (501, "NotImplemented", Invalid),
        (301, "PermanentRedirect", Invalid),
    ] {
        assert_eq!(refused(status, code), kind, "{status} {code}");
    }
}

#[test]
fn not_every_conflict_of_azure_is_one_between_writers() {
    let meaning = |status, code: &str| {
        let refused = Refused { status, code: code.into(), message: String::new() };
        Service::Azure.meaning(&refused)
    };
    assert_eq!(meaning(409, "BlobAlreadyExists").0, ErrorKind::Conflict);
    assert_eq!(meaning(409, "ContainerBeingDeleted").0, ErrorKind::Unavailable);
    assert_eq!(meaning(409, "BlobImmutableDueToPolicy").0, ErrorKind::Denied);
    assert!(meaning(404, "ContainerNotFound").1.contains("container"));
    assert!(meaning(403, "AuthenticationFailed").1.contains("AZURE_STORAGE_ACCOUNT_KEY"));
}

#[test]
fn a_signature_in_a_url_is_in_no_error() {
    let env = [
        ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
        ("AZURE_STORAGE_SAS_TOKEN", "sv=2021-08-06&sig=hidden"),
        ("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:1/account"),
    ];
    let retries = crate::storage::Retries { total: std::time::Duration::ZERO, ..Default::default() };
    let storage = open("az://container/x", &Options { env: Environment::of(&env), retries, ..Options::default() });
    let error = storage.unwrap().get(&Key::new("a").unwrap()).unwrap_err();
    let mut cause: Option<&dyn std::error::Error> = Some(&error);
    while let Some(error) = cause {
        assert!(!error.to_string().contains("hidden") && !format!("{error:?}").contains("hidden"), "{error:?}");
        cause = error.source();
    }
}

#[test]
fn a_part_of_a_batch_has_its_meaning() {
    let part = |text: &str| {
        let error = object_store::Error::Generic { store: "MicrosoftAzure", source: text.to_owned().into() };
        explain(Service::Azure, &error)
    };
    let denied = part("Bulk delete request failed for key a/b: not permitted (code: 403)");
    assert!(denied.0 == ErrorKind::Denied && denied.1.contains("not permitted"), "{denied:?}");
    assert_eq!(part("Bulk delete request failed for key a: busy (code: 503)").0, ErrorKind::Unavailable);
    assert_eq!(part("nonsense").0, ErrorKind::Unavailable);
}

#[test]
fn a_quota_of_requests_passes() {
    let meaning = |status| {
        let message = "Quota exceeded for quota metric 'Requests' per minute".to_owned();
        Service::Google.meaning(&Refused { status, code: String::new(), message }).0
    };
    assert_eq!(
        (meaning(429), meaning(503), meaning(403)),
        (ErrorKind::Unavailable, ErrorKind::Unavailable, ErrorKind::Full)
    );
}

#[test]
fn tokens_that_are_refused_are_credentials() {
    let message = r#"{"error": "invalid_grant", "error_description": "expired"}"#.to_owned();
    let (kind, hint) = Service::Google.meaning(&Refused { status: 400, code: String::new(), message });
    assert!(kind == ErrorKind::Denied && hint.contains("GOOGLE_APPLICATION_CREDENTIALS"), "{hint}");
}

fn s3(url: &str, set: impl FnOnce(&mut S3Options)) -> Result<Arc<dyn Storage>> {
    let mut options = Options { env: Environment::of(&[("HOME", "/nonexistent")]), ..Options::default() };
    set(&mut options.s3);
    open(url, &options)
}

#[test]
fn places_are_checked_before_anything_is_sent() {
    let location = |url| s3(url, |_| {}).unwrap().location();
    assert_eq!(location("s3://bucket"), "s3://bucket");
    assert_eq!(location("s3://bucket/a/B_c"), "s3://bucket/a/B_c");
    for url in
        ["s3://", "s3:///x", "s3://bu cket", "s3://bucket/a//b", "ftp://x", "file://relative", "az://", "gs:///x"]
    {
        assert_eq!(s3(url, |_| {}).unwrap_err().kind(), ErrorKind::Invalid, "{url}");
    }
    assert_eq!(location("gs://bucket/a"), "gs://bucket/a");
    let error = s3("az://container/x", |_| {}).unwrap_err();
    assert!(error.kind() == ErrorKind::Denied && error.to_string().contains("AZURE_STORAGE_ACCOUNT_NAME"), "{error}");
    for url in [
        "s3://key:hidden@bucket/x",
        "sftp://user:hidden@host",
        "az://container/x?sv=1&sig=hidden",
        "az://container?sig=hidden",
        "gs://bucket#hidden",
    ] {
        let error = s3(url, |_| {}).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(!error.to_string().contains("hidden"), "{error}");
    }
    for endpoint in
        ["host", "ftp://host", "https://", "https://user:hidden@host", "https://host/?sig=hidden", "host?hidden"]
    {
        let error = s3("s3://bucket", |s3| s3.endpoint = Some(endpoint.into())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{endpoint}");
        assert!(!error.to_string().contains("hidden"), "{error}");
    }
    let error = s3("s3://bucket", |s3| s3.ca_file = Some("/nonexistent/ca.pem".into())).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/ca.pem"), "{error}");
    assert_eq!(s3("s3://bucket", |s3| s3.profile = Some("p".into())).unwrap_err().kind(), ErrorKind::Denied);
}

/// A server that took a request and says nothing.
#[test]
fn a_request_without_an_answer_is_given_up_when_the_work_is_over() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let given_up = |over: Over| {
        let silent = std::future::pending::<object_store::Result<()>>();
        let limit = std::time::Duration::from_secs(60);
        runtime.block_on(async { tokio::time::timeout(limit, until_over(&over, silent)).await })
    };
    let error = given_up(Over::when(|| true)).expect("it is waited for").unwrap_err();
    assert_eq!(explain(Service::S3, &error).0, ErrorKind::Unavailable);
    // What is answered in time counts: it need not be sent again.
    let answered = runtime.block_on(until_over(&Over::when(|| true), async {
        tokio::time::sleep(LOOK * 2).await;
        Ok(7)
    }));
    assert_eq!(answered.unwrap(), 7);
}

/// One answer of a server to one request; gives its URL and what was asked.
fn answering(answer: &'static str) -> (String, std::thread::JoinHandle<String>) {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/bucket", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            let mut part = [0; 512];
            let length = stream.read(&mut part).unwrap();
            asked.extend_from_slice(&part[..length]);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(asked).unwrap()
    });
    (url, server)
}

/// Who has no right to look, or asked in the wrong region, is told which one it is all the same.
#[test]
fn the_region_of_a_bucket_is_in_every_answer() {
    let look_up = |answer| {
        let (url, server) = answering(answer);
        let region = client::Connector::new(&Options::default(), None).unwrap().region_of(&url);
        let asked = server.join().unwrap();
        assert!(asked.starts_with("HEAD /bucket ") && !asked.to_lowercase().contains("authorization"), "{asked}");
        region.map_err(|e| (e.kind(), e.to_string()))
    };
    let forbidden = "HTTP/1.1 403 Forbidden\r\nx-amz-bucket-region: eu-west-3\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(look_up(forbidden).unwrap(), "eu-west-3");
    let moved = "HTTP/1.1 301 Moved\r\nlocation: /x\r\nx-amz-bucket-region: us-gov-west-1\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(look_up(moved).unwrap(), "us-gov-west-1");
    let (kind, said) = look_up("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").unwrap_err();
    assert!(kind == ErrorKind::NoRepository && said.contains("no such bucket"), "{kind:?}: {said}");
    let (kind, said) = look_up("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").unwrap_err();
    assert!(kind == ErrorKind::Unavailable && said.contains("config key region"), "{kind:?}: {said}");
}

/// The server is told how to encrypt, with each object; and not sent a checksum that it does not know.
#[test]
fn an_s3_server_is_told_how_to_encrypt() {
    use crate::storage::{Encryption, S3Options};
    let put = |encryption: Option<Encryption>, without_checksum: bool| {
        let (url, server) = answering("HTTP/1.1 200 OK\r\netag: \"x\"\r\ncontent-length: 0\r\n\r\n");
        let endpoint = url.strip_suffix("/bucket").map(ToOwned::to_owned);
        let s3 = S3Options { endpoint, encryption, without_checksum, ..S3Options::default() };
        let env = Environment::of(&[("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s"), ("HOME", "/none")]);
        let storage = open("s3://bucket/x", &Options { s3, env, ..Options::default() }).unwrap();
        storage.create(&Key::new("a").unwrap(), Bytes::new()).unwrap();
        server.join().unwrap().to_lowercase()
    };
    let kms =
        |key: Option<&str>| Some(Encryption { algorithm: "aws:kms".to_owned(), kms_key: key.map(ToOwned::to_owned) });
    let asked = put(kms(Some("alias/mine")), false);
    for header in [
        "x-amz-server-side-encryption: aws:kms\r\n",
        "x-amz-server-side-encryption-aws-kms-key-id: alias/mine\r\n",
        "x-amz-checksum-sha256: ",
    ] {
        assert!(asked.contains(header), "{header}: {asked}");
    }
    let asked = put(kms(None), true);
    assert!(asked.contains("x-amz-server-side-encryption: aws:kms\r\n") && !asked.contains("key-id"), "{asked}");
    assert!(!asked.contains("x-amz-checksum") && asked.contains("x-amz-content-sha256: "), "{asked}");
    assert!(!put(None, false).contains("encryption"));
}
