//! Answers of an API server as they are parsed: object by object, without `metadata.managedFields`, which is half of many an
//! object and read by nobody here. A page of a list is never there as objects as a whole.

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// Who wrote which field of an object (`ObjectMeta`, v1).
const MANAGED: &str = "managedFields";

/// One JSON value without what nobody reads.
#[derive(Debug, Clone, Copy)]
struct Slim {
    /// This is the `metadata` of an object.
    meta: bool,
}

impl<'de> DeserializeSeed<'de> for Slim {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Slim {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(value) = values.next_element_seed(Self { meta: false })? {
            all.push(value);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            if self.meta && name == MANAGED {
                fields.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = fields.next_value_seed(Self { meta: name == "metadata" })?;
            all.insert(name, value);
        }
        Ok(Value::Object(all))
    }
}

/// One object.
///
/// # Errors
/// Where it is no JSON.
pub(crate) fn object(text: &[u8]) -> serde_json::Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let object = Slim { meta: false }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(object)
}

/// What a page says beside its objects (`ListMeta`, v1).
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Page {
    /// `metadata.resourceVersion`.
    pub(crate) version: String,
    /// `metadata.continue`: where the next page begins; empty after the last one.
    pub(crate) more: String,
}

/// A page of a list: `each` gets one object after the other.
///
/// # Errors
/// Where it is no JSON, or no list. Objects before that were given already.
pub(crate) fn page(text: &[u8], each: &mut dyn FnMut(Value)) -> serde_json::Result<Page> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let page = List(each).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(page)
}

struct List<'a>(&'a mut dyn FnMut(Value));

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = Page;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Page, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = Page;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Page, A::Error> {
        let (mut page, mut is_list) = (Page::default(), false);
        while let Some(name) = fields.next_key::<String>()? {
            match name.as_str() {
                "metadata" => {
                    let meta: Value = fields.next_value()?;
                    let text = |name: &str| meta[name].as_str().unwrap_or_default().to_owned();
                    page = Page { version: text("resourceVersion"), more: text("continue") };
                }
                "items" => {
                    fields.next_value_seed(Items(&mut *self.0))?;
                    is_list = true;
                }
                _ => drop(fields.next_value::<IgnoredAny>()?),
            }
        }
        if is_list { Ok(page) } else { Err(A::Error::custom("the answer is no list")) }
    }
}

struct Items<'a>(&'a mut dyn FnMut(Value));

impl<'de> DeserializeSeed<'de> for Items<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("objects")
    }

    /// Go writes `null` for an empty list.
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        while let Some(object) = values.next_element_seed(Slim { meta: false })? {
            (self.0)(object);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(text: &str) -> serde_json::Result<(Page, Vec<Value>)> {
        let mut all = Vec::new();
        page(text.as_bytes(), &mut |object| all.push(object)).map(|page| (page, all))
    }

    #[test]
    fn an_object_is_as_it_was_but_for_who_wrote_it() {
        let fields = json!({
            "metadata": { "name": "a", "labels": { "managedFields": "of others" }, "n": [1, -2, 2.5, true, null, "x\n"] },
            "spec": { "managedFields": [{}], "template": { "metadata": { "name": "b" } } },
        });
        let mut full = fields.clone();
        full["metadata"]["managedFields"] = json!([{ "manager": "m", "fieldsV1": { "f:spec": {} } }]);
        full["spec"]["template"]["metadata"]["managedFields"] = json!([]);
        assert_eq!(object(full.to_string().as_bytes()).unwrap(), fields);
        for bad in ["{", "{} x", ""] {
            assert!(object(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_page_gives_its_objects_and_where_it_goes_on() {
        let list = json!({
            "kind": "PodList", "metadata": { "resourceVersion": "7", "continue": "c" },
            "items": [{ "metadata": { "name": "a", "managedFields": [] } }, { "metadata": { "name": "b" } }],
        });
        let (page, objects) = read(&list.to_string()).unwrap();
        assert_eq!(page, Page { version: "7".to_owned(), more: "c".to_owned() });
        assert_eq!(objects, [json!({ "metadata": { "name": "a" } }), json!({ "metadata": { "name": "b" } })]);
        let (page, objects) = read(r#"{"items":null,"metadata":{}}"#).unwrap();
        assert_eq!((page, objects), (Page::default(), Vec::new()));
        for bad in ["{}", "[]", "7", r#"{"items":7}"#, r#"{"items":[{}"#, r#"{"kind":"Status"}"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
