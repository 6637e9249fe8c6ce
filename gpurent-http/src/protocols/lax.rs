//! Values as clients of older protocols send them: numbers as text, integers with a point, booleans where text is meant.
//! The originals take all of these (pydantic's lax mode, <https://docs.pydantic.dev/latest/concepts/conversion_table/>).

use serde::Deserialize;

/// A whole number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Scalar")]
pub(super) struct Integer(pub(super) i64);

/// A text, or what stands for one; `None` for null.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "Option<Scalar>")]
pub(super) struct Text(pub(super) Option<String>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
}

impl TryFrom<Scalar> for Integer {
    type Error = &'static str;

    fn try_from(scalar: Scalar) -> Result<Self, Self::Error> {
        const WRONG: &str = "must be a whole number";
        // Beyond it not every whole number is one.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        let of = |number: f64| {
            let is_whole = number.fract() == 0.0 && number.abs() <= EXACT;
            // A number without a fraction reads as one.
            if is_whole { format!("{number:.0}").parse().map_err(|_| WRONG) } else { Err(WRONG) }
        };
        Ok(Self(match scalar {
            Scalar::Integer(number) => number,
            Scalar::Float(number) => of(number)?,
            Scalar::Text(text) => match text.trim().parse() {
                Ok(number) => number,
                Err(_) => of(text.trim().parse().map_err(|_| WRONG)?)?,
            },
            Scalar::Bool(_) => return Err(WRONG),
        }))
    }
}

impl From<Option<Scalar>> for Text {
    fn from(scalar: Option<Scalar>) -> Self {
        Self(scalar.map(|scalar| match scalar {
            Scalar::Text(text) => text,
            Scalar::Integer(number) => number.to_string(),
            Scalar::Float(number) => number.to_string(),
            // As Python writes them, in which the originals are written.
            Scalar::Bool(true) => "True".to_owned(),
            Scalar::Bool(false) => "False".to_owned(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn integer(json: &str) -> Option<i64> {
        serde_json::from_str::<Integer>(json).ok().map(|number| number.0)
    }

    #[test]
    fn a_number_is_read_in_every_form() {
        for json in ["2", "2.0", r#""2""#, r#"" 2 ""#, r#""2.0""#] {
            assert_eq!(integer(json), Some(2), "{json}");
        }
        for json in ["2.5", r#""two""#, "true", "null", "[2]", "1e300", r#""""#, r#""NaN""#] {
            assert_eq!(integer(json), None, "{json}");
        }
        assert_eq!(integer("9007199254740993"), Some(9_007_199_254_740_993));
    }

    #[test]
    fn a_text_is_what_stands_for_one() {
        let text = |json: &str| serde_json::from_str::<Text>(json).unwrap().0;
        assert_eq!(text(r#""a""#).as_deref(), Some("a"));
        assert_eq!(text("1").as_deref(), Some("1"));
        assert_eq!(text("0.5").as_deref(), Some("0.5"));
        assert_eq!(text("true").as_deref(), Some("True"));
        assert_eq!(text("null"), None);
        assert!(serde_json::from_str::<Text>("{}").is_err());
    }
}
