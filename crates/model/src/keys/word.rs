//! Words: the values of keys that are one of a few.

/// An enum with the word of each value in the file, in JSON and in the schema; a kind of value by itself.
macro_rules! words {
    ($(
        $(#[doc = $doc:literal])+
        $(#[derive($($derive:path),+)])?
        $vis:vis enum $Word:ident { $($(#[doc = $value_doc:literal])* $Value:ident = $word:literal,)+ }
    )+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, schemars::JsonSchema $($(, $derive)+)?)]
        $vis enum $Word {
            $($(#[doc = $value_doc])* #[serde(rename = $word)] $Value,)+
        }

        impl $Word {
            /// As written in the config.
            #[allow(dead_code, reason = "not every word is shown")]
            $vis const fn as_str(self) -> &'static str {
                match self {
                    $($Word::$Value => $word,)+
                }
            }
        }

        impl $crate::keys::kind::ValueKind for $Word {
            type Value = $Word;

            fn label() -> String {
                "word".to_owned()
            }

            fn schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                <$Word as schemars::JsonSchema>::json_schema(generator)
            }

            fn read(
                r: &mut $crate::keys::read::Reader<'_, '_>,
                at: &$crate::keys::read::At<'_>,
                span: &$crate::keys::read::Span,
                value: toml::Value,
            ) -> Option<$Word> {
                r.choice(at, span, &value, &[$(($word, $Word::$Value)),+])
            }
        }
    )+};
}

pub(crate) use words;
