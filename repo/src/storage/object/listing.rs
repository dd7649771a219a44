//! Pages of listings, before object_store reads them.

use super::http::Broken;
use object_store::path::Path;

/// Answers to listings. object_store takes whatever lacks the token of a next page for the last one: a page of an older protocol,
/// which says only that it was cut, or an error with status 200. Objects that no listing shows would be deleted by a collector.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lists {
    /// `ListObjectsV2`, also that of Google.
    S3,
    /// `List Blobs`.
    Azure,
}

impl Lists {
    /// What a request with this query asks for.
    pub(super) fn of(query: &str) -> Option<Self> {
        let has = |pair| query.split('&').any(|part| part == pair);
        if has("list-type=2") { Some(Self::S3) } else { has("comp=list").then_some(Self::Azure) }
    }

    pub(super) fn check(self, page: &str) -> Result<(), Broken> {
        let (opens, closes) = match self {
            Self::S3 => ("<ListBucketResult", "</ListBucketResult>"),
            Self::Azure => ("<EnumerationResults", "</EnumerationResults>"),
        };
        if !page.contains(opens) || !page.contains(closes) {
            return Err(Broken::Listing("it is something else"));
        }
        let goes_on = page.split_once("<NextContinuationToken>").is_some_and(|(_, rest)| !rest.starts_with('<'));
        match self {
            Self::S3 if page.contains("<IsTruncated>true") && !goes_on => {
                Err(Broken::Listing("it was cut, without a token for the next page"))
            }
            _ => Ok(()),
        }
    }

    /// The page without objects whose names object_store refuses (`packs//x`, `./x`), as it then refuses the whole page: one slip of a
    /// tool for copying would keep everybody from everything. Such a name is never ours. `None`: there is none.
    pub(super) fn without_foreign(self, page: &str) -> Option<String> {
        let (opens, closes, name) = match self {
            Self::S3 => ("<Contents>", "</Contents>", ("<Key>", "</Key>")),
            Self::Azure => ("<Blob>", "</Blob>", ("<Name>", "</Name>")),
        };
        let is_foreign = |object: &str| {
            let key = object.split_once(name.0).and_then(|(_, rest)| rest.split_once(name.1)).map(|(key, _)| key);
            key.is_some_and(|key| Path::parse(key).is_err())
        };
        let (mut foreign, mut at) = (Vec::new(), 0);
        while let Some(start) = page[at..].find(opens).map(|found| at + found) {
            let Some(len) = page[start..].find(closes) else { break };
            at = start + len + closes.len();
            if is_foreign(&page[start..at]) {
                tracing::debug!(object = &page[start..at], "left out of a listing: such a name is not ours");
                foreign.push(start..at);
            }
        }
        let mut kept = (!foreign.is_empty()).then(|| page.to_owned())?;
        foreign.into_iter().rev().for_each(|object| kept.replace_range(object, ""));
        Some(kept)
    }
}

/// Whether a page is a whole listing, of Azure or of S3; what is foreign in it is taken out on the way.
pub(crate) fn is_listing(azure: bool, page: &str) -> bool {
    let lists = if azure { Lists::Azure } else { Lists::S3 };
    let kept = lists.without_foreign(page);
    lists.check(kept.as_deref().unwrap_or(page)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(inner: &str) -> String {
        format!("<?xml?><ListBucketResult xmlns=\"x\">{inner}</ListBucketResult>")
    }

    #[test]
    fn a_page_that_is_cut_without_a_token_or_is_none_is_no_listing() {
        let s3 = Lists::of("list-type=2&prefix=a").unwrap();
        for whole in
            ["", "<IsTruncated>false</IsTruncated>", "<IsTruncated>true</IsTruncated><NextContinuationToken>t<"]
        {
            s3.check(&page(whole)).unwrap();
        }
        for cut in ["<IsTruncated>true</IsTruncated>", "<IsTruncated>true</IsTruncated><NextContinuationToken></N>"] {
            assert!(s3.check(&page(cut)).is_err(), "{cut}");
        }
        for odd in ["", "<Error><Code>InternalError</Code></Error>", "<html>", "<ListBucketResult><Contents>"] {
            assert!(s3.check(odd).is_err(), "{odd}");
            assert!(Lists::of("restype=container&comp=list").unwrap().check(odd).is_err(), "{odd}");
        }
        assert!(Lists::of("x=list-type=2").is_none() && Lists::of("").is_none());
    }

    #[test]
    fn only_names_that_no_path_has_are_taken_out() {
        let object = |key: &str| format!("<Contents><Size>1</Size><Key>{key}</Key></Contents>");
        let of = |keys: &[&str]| page(&keys.iter().map(|key| object(key)).collect::<String>());
        for kept in [&[][..], &["r/a"], &["r/a", "r/packs/", "r/b &amp; c", "r/.a/..b", "/r/a"]] {
            assert_eq!(Lists::S3.without_foreign(&of(kept)), None, "{kept:?}");
        }
        for foreign in ["r//a", "r/./a", "r/../a", "..", "r/a//", "//"] {
            for keys in [&[foreign][..], &["r/a", foreign, "r/b"], &[foreign, foreign, "r/b"], &["r/a", foreign]] {
                let rest: Vec<_> = keys.iter().copied().filter(|key| *key != foreign).collect();
                assert_eq!(Lists::S3.without_foreign(&of(keys)), Some(of(&rest)), "{keys:?}");
            }
        }
        let blob = |name: &str| format!("<Blobs><Blob><Name>{name}</Name><Properties/></Blob></Blobs>");
        assert_eq!(Lists::Azure.without_foreign(&blob("r//a")).unwrap(), "<Blobs></Blobs>");
        assert_eq!(Lists::Azure.without_foreign(&blob("r/a")), None);
        for odd in ["<Contents>", "<Contents><Key>r//a", "</Contents><Contents></Contents>", "<Key>//</Key>"] {
            assert_eq!(Lists::S3.without_foreign(odd), None, "{odd}");
        }
    }
}
