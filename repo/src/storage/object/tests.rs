use super::*;
use crate::storage::{Environment, Options, open};

fn refused(status: u16, code: &str) -> ErrorKind {
    Service::S3.meaning(&answer(status, code, "")).0
}

/// An answer of the storage.
fn answer(status: u16, code: &str, message: &str) -> Refused {
    Refused { status, code: code.into(), message: message.into(), is_known: true }
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
    let meaning = |status, code: &str| Service::Azure.meaning(&answer(status, code, ""));
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
    let message = "Quota exceeded for quota metric 'Requests' per minute";
    let meaning = |status| Service::Google.meaning(&answer(status, "", message)).0;
    assert_eq!(
        (meaning(429), meaning(503), meaning(403)),
        (ErrorKind::Unavailable, ErrorKind::Unavailable, ErrorKind::Full)
    );
}

/// What the server that gives credentials says is no answer about an object, whatever its number.
#[test]
fn credentials_that_are_not_given_are_no_answer_about_an_object() {
    let meaning = |status: u16, code: &str, message: &str| {
        let refused = answer(status, code, message);
        let error = object_store::Error::Generic { store: "S3", source: refused.into() };
        let source = NotGiven::new(&error).into();
        explain(Service::Google, &object_store::Error::Generic { store: "credentials", source })
    };
    for (status, code) in [
        (404, ""),
        (408, ""),
        (410, "Gone"),
        (429, ""),
        (500, ""),
        (503, "SlowDown"),
        (400, "Throttling"),
        (400, "ThrottlingException"),
        (400, "IDPCommunicationError"),
    ] {
        assert_eq!(meaning(status, code, "").0, ErrorKind::Unavailable, "{status} {code}");
    }
    for (status, code) in
        [(401, ""), (403, "AccessDenied"), (400, "InvalidIdentityToken"), (409, ""), (301, ""), (405, "")]
    {
        assert_eq!(meaning(status, code, "").0, ErrorKind::Denied, "{status} {code}");
    }
    let (kind, text) = meaning(400, "", r#"{"error": "invalid_grant", "error_description": "expired"}"#);
    assert!(kind == ErrorKind::Denied && text.contains("GOOGLE_APPLICATION_CREDENTIALS"), "{text}");
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

/// A server that gives these answers, one after the other and a connection each; gives its address and what was asked.
fn saying(answers: Vec<String>) -> (String, std::thread::JoinHandle<Vec<String>>) {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let one = |answer: String| {
            let (mut stream, _) = listener.accept().unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let head: Vec<String> = lines.map_while(|line| line.ok().filter(|line| !line.is_empty())).collect();
            stream.write_all(answer.as_bytes()).unwrap();
            head[0].rsplit_once(' ').unwrap().0.to_owned()
        };
        answers.into_iter().map(one).collect()
    });
    (url, server)
}

fn http(status: &str, headers: &str, body: &str) -> String {
    let len = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {len}\r\nconnection: close\r\n\r\n{body}")
}

/// An object that both name, as seen by a storage whose credentials come from a server of metadata.
fn read_with_role(metadata: Vec<String>, storage: Vec<String>) -> (Result<Bytes>, Vec<String>) {
    let (roles, of_roles) = saying(metadata);
    let (endpoint, of_storage) = saying(storage);
    let env = [("HOME", "/none"), ("AWS_METADATA_ENDPOINT", roles.as_str()), ("AWS_ENDPOINT_URL", endpoint.as_str())];
    let storage = open("s3://bucket", &Options { env: Environment::of(&env), ..Options::default() }).unwrap();
    let key = Key::new("a").unwrap();
    let read = storage.get(&key).and_then(|_| {
        // For a moment nobody asks again.
        std::thread::sleep(std::time::Duration::from_millis(150));
        storage.get(&key)
    });
    // Who waits for a request that does not come is not waited for.
    let is_done = read.is_ok();
    let asked = [of_roles, of_storage].into_iter().filter(|server| server.is_finished() || is_done);
    (read, asked.flat_map(|server| server.join().unwrap()).collect())
}

/// What a server of metadata says three times to give credentials: a token, the role, its keys, which are soon to be renewed.
fn credentials() -> Vec<String> {
    let expiration = jiff::Timestamp::now() + jiff::SignedDuration::from_mins(1);
    let keys = format!(
        r#"{{"AccessKeyId": "k", "SecretAccessKey": "s", "Token": "t", "Expiration": "{expiration}", "LastUpdated": "{expiration}"}}"#
    );
    vec![http("200 OK", "", "token"), http("200 OK", "", "role"), http("200 OK", "", &keys)]
}

fn object() -> String {
    http("200 OK", "etag: \"x\"\r\nlast-modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n", "whole")
}

#[test]
fn a_server_of_metadata_that_is_renewed_costs_a_moment() {
    for passing in ["404 Not Found", "410 Gone", "503 Service Unavailable"] {
        // At the renewal, which keys of a minute need before each request.
        let metadata = [credentials(), vec![http(passing, "", "")], credentials()].concat();
        let (read, asked) = read_with_role(metadata, vec![object(), object()]);
        assert_eq!(read.unwrap(), "whole", "{passing}");
        assert_eq!(asked.len(), 9, "{passing}: {asked:?}");
        // Before anything was given.
        let metadata = [vec![http(passing, "", "")], credentials(), credentials()].concat();
        let (read, _) = read_with_role(metadata, vec![object(), object()]);
        assert_eq!(read.unwrap(), "whole", "{passing}, at first");
    }
    let (read, _) = read_with_role(vec![http("403 Forbidden", "", "")], Vec::new());
    let error = read.unwrap_err();
    assert!(error.kind() == ErrorKind::Denied && error.to_string().contains("no credentials are given"), "{error}");
}

/// An ingress whose backend is away for a moment says that nothing is there.
#[test]
fn what_is_not_there_is_asked_for_again_where_the_storage_did_not_say_so() {
    let ingress = || http("404 Not Found", "content-type: text/plain\r\n", "404 page not found");
    let gone = || http("404 Not Found", "", "<Error><Code>NoSuchKey</Code></Error>");
    let ask = |answers: Vec<String>, ask: &dyn Fn(&dyn Storage, &Key) -> Result<String>| {
        let (endpoint, server) = saying(answers);
        let env = [("HOME", "/none"), ("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s")];
        let env = Environment::of(&[&env[..], &[("AWS_ENDPOINT_URL", &endpoint)]].concat());
        let storage = open("s3://bucket", &Options { env, ..Options::default() }).unwrap();
        let said = ask(&*storage, &Key::new("a").unwrap()).map_err(|e| e.kind());
        (said, server.join().unwrap().join(", "))
    };
    let get = |storage: &dyn Storage, key: &Key| Ok(String::from_utf8_lossy(&storage.get(key)?).into_owned());
    let (said, _) = ask(vec![ingress(), object()], &get);
    assert_eq!(said.unwrap(), "whole");
    let (said, _) = ask(vec![ingress(), gone()], &get);
    assert_eq!(said.unwrap_err(), ErrorKind::NotFound);
    let (said, asked) = ask(vec![ingress(), http("204 No Content", "", "")], &|storage, key| {
        storage.delete(key).map(|()| "deleted".to_owned())
    });
    assert_eq!((said.unwrap(), asked.as_str()), ("deleted".to_owned(), "DELETE /bucket/a, DELETE /bucket/a"));
    // The answer to a HEAD has no text: that to a read tells.
    let head = |storage: &dyn Storage, key: &Key| storage.head(key).map(|found| found.size.to_string());
    let (said, asked) = ask(vec![http("404 Not Found", "", ""), gone()], &head);
    assert_eq!((said.unwrap_err(), asked.as_str()), (ErrorKind::NotFound, "HEAD /bucket/a, GET /bucket/a"));
    let (said, asked) = ask(vec![http("404 Not Found", "x-amz-request-id: 7\r\n", "")], &head);
    assert_eq!((said.unwrap_err(), asked.as_str()), (ErrorKind::NotFound, "HEAD /bucket/a"));
    let part = "etag: \"x\"\r\nlast-modified: Sun, 06 Nov 1994 08:49:37 GMT\r\ncontent-range: bytes 0-0/5\r\n";
    let (said, _) = ask(vec![http("404 Not Found", "", ""), http("206 Partial Content", part, "w")], &head);
    assert_eq!(said.unwrap(), "5");
}

#[test]
fn an_object_that_is_too_long_is_not_brought_into_memory() {
    let head = "HTTP/1.1 200 OK\r\netag: \"x\"\r\nlast-modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    let (endpoint, server) = saying(vec![format!("{head}content-length: 8796093022208\r\n\r\n")]);
    let env = [("HOME", "/none"), ("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s")];
    let env = Environment::of(&[&env[..], &[("AWS_ENDPOINT_URL", &endpoint)]].concat());
    let storage = open("s3://bucket", &Options { env, ..Options::default() }).unwrap();
    let error = storage.get(&Key::new("snap/a").unwrap()).unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && error.object() == Some("snap/a"), "{error}");
    server.join().unwrap();
}

/// A listing of a storage that answers so.
fn listed(answers: Vec<String>, retries: crate::storage::Retries) -> Result<Vec<String>> {
    let (endpoint, _) = saying(answers);
    let env = [
        ("HOME", "/none"),
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_ACCESS_KEY_ID", "k"),
        ("AWS_SECRET_ACCESS_KEY", "s"),
        ("AWS_REGION", "eu-west-1"),
    ];
    let storage =
        open("s3://bucket/r", &Options { env: Environment::of(&env), retries, ..Options::default() }).unwrap();
    let mut found = Vec::new();
    let done = storage.list("", &mut |object| {
        found.push(object.key.as_str().to_owned());
        Ok(())
    });
    done.map(|()| found)
}

fn page(keys: &[&str], token: &str) -> String {
    let object = |key: &&str| {
        format!("<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00Z</LastModified><Size>1</Size></Contents>")
    };
    let objects: String = keys.iter().map(object).collect();
    let token = match token {
        "" => "<IsTruncated>false</IsTruncated>".to_owned(),
        token => {
            format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>")
        }
    };
    http("200 OK", "", &format!("<ListBucketResult>{objects}{token}</ListBucketResult>"))
}

fn quick(total: u64) -> crate::storage::Retries {
    let millis = std::time::Duration::from_millis;
    crate::storage::Retries { total: millis(total), first: millis(5), ..Default::default() }
}

/// Somebody's slip beside our objects: object_store refuses the whole page for such a name.
#[test]
fn a_name_that_no_path_has_does_not_end_a_listing() {
    let pages = vec![page(&["r/a/1", "r/a//x", "r/./b"], "t"), page(&["r/a/2", "r/../c"], "u"), page(&["r//"], "")];
    assert_eq!(listed(pages, quick(0)).unwrap(), ["a/1", "a/2"]);
}

#[test]
fn a_listing_that_goes_on_where_it_began_ends() {
    let pages = vec![page(&["r/a"], "t"), page(&["r/b"], "t"), page(&["r/b"], "t")];
    let error = listed(pages, quick(0)).unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.to_string().contains("goes on where it began"), "{error}");
    // Said wrongly once, it is asked for again.
    let pages = vec![page(&["r/a"], "t"), page(&["r/b"], "t"), page(&["r/b"], "u"), page(&["r/c"], "")];
    assert_eq!(listed(pages, quick(2000)).unwrap(), ["a", "b", "c"]);
}

/// Each page is tried again as long as that is allowed, and nothing else begins that time anew.
#[test]
fn a_listing_that_fails_is_given_up_once() {
    let busy = http("503 Slow Down", "", "<Error><Code>SlowDown</Code></Error>");
    let error = listed(vec![busy; 500], quick(200)).unwrap_err().to_string();
    assert_eq!(error.matches("gave up after").count(), 1, "{error}");
}
