//! A table of the configuration, whose keys stand once: `table!` makes of them the struct, the loader, the
//! schema, the rows of docs/configuration.md and the names of what changed.
//!
//! ```text
//! table! {
//!     /// Idle times.
//!     pub struct Timeouts(TimeoutsRaw, TimeoutsFound) {
//!         /// UDP flows.
//!         udp_s: Number<u32, 1, 86_400> = 60, unit "seconds", help "seconds; leave it out for {default}"
//!             => InCluster;
//!     }
//! }
//! ```
//! In this order: name (with `"key"` behind it where the file's word is another), kind, `= value where none
//! is written` (without it the field is an `Option`), `default "what documents say of it"`, `unit`, `help` of
//! what is reported, or `required` with that help, `check` (a function: whether a value that is of the kind
//! may stay), and what a change of it takes.

/// The keys of a table: what is written, what is found in it, what is known of each.
macro_rules! keys {
    (
        $(#[doc = $table:literal])+
        $Table:ident($Raw:ident, $Found:ident) {$(
            $(#[doc = $doc:literal])*
            $(#[cfg($($cfg:tt)+)])?
            $field:ident $($name:literal)?: $kind:ty $(= $default:expr)?
            $(, default $text:literal)? $(, unit $unit:literal)? $(, help $help:literal)?
            $(, required $required:literal)? $(, check $check:path)? => $change:ident;
        )*}
    ) => {
        #[derive(Default, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(crate) struct $Raw {$(
            $(#[cfg($($cfg)+)])?
            $(#[serde(rename = $name)])?
            pub(crate) $field: <$kind as $crate::keys::kind::KeyContent>::Raw,
        )*}

        #[allow(non_upper_case_globals, reason = "named as the keys are")]
        impl $Raw {$(
            $(#[cfg($($cfg)+)])?
            const $field: $crate::keys::key::ConfigKey = $crate::keys::key::ConfigKey {
                name: $crate::keys::table::name!($field $($name)?),
                change: $crate::keys::key::RestartRule::$change,
                doc: concat!($($doc),*),
                unit: concat!($($unit)?),
                help: concat!($($help)? $($required)?),
                required: !concat!($($required)?).is_empty(),
                default: $crate::keys::table::default!($kind, [$($text)?] [$($required)?] $($default)?),
                label: <$kind as $crate::keys::kind::KeyContent>::label,
                schema: <$kind as $crate::keys::kind::KeyContent>::schema,
                keys: <$kind as $crate::keys::kind::KeyContent>::KEYS,
            };
        )*}

        impl $crate::keys::key::ConfigTable for $Table {
            type Raw = $Raw;
            const DOC: &'static str = concat!($($table),+);
            const KEYS: &'static [$crate::keys::key::ConfigKey] = &[$($(#[cfg($($cfg)+)])? $Raw::$field),*];
        }

        /// What was found of each key.
        #[derive(Default)]
        #[allow(dead_code, reason = "of some keys only what is wrong matters")]
        pub(crate) struct $Found {$(
            $(#[cfg($($cfg)+)])?
            pub(crate) $field: <$kind as $crate::keys::kind::KeyContent>::Found,
        )*}

        #[allow(dead_code, reason = "of the whole file each table is read by itself")]
        impl $Found {
            /// Reads every key by itself, and reports what is wrong with it, or missing.
            pub(crate) fn read(
                r: &mut $crate::keys::read::Reader<'_, '_>,
                scope: &$crate::keys::read::Scope,
                raw: $Raw,
            ) -> $Found {
                use $crate::keys::kind::KeyContent as _;
                $(
                    $(#[cfg($($cfg)+)])?
                    let $field = {
                        let at = $crate::keys::read::At { place: &scope.place, key: &$Raw::$field };
                        let found = <$kind>::take(r, &at, raw.$field);
                        $(let found = found.check(|value, span| $check(r, &at, value, span));)?
                        if at.key.required && <$kind>::is_absent(&found) {
                            r.missing(scope, at.key);
                        }
                        found
                    };
                )*
                $Found { $($(#[cfg($($cfg)+)])? $field),* }
            }
        }
    };
}

/// As [`keys!`], and the struct of checked values. `given` names what values where none is written go by;
/// keys below `read` become no field; fields below `extra` are no keys.
macro_rules! table {
    (
        $(#[doc = $table:literal])+
        $(#[derive($($derive:ident),+)])?
        pub struct $Table:ident($Raw:ident, $Found:ident) $(given($($given:ident: $given_type:ty),+))? {$(
            $(#[doc = $doc:literal])*
            $(#[serde($($serde:tt)+)])?
            $field:ident $($name:literal)?: $kind:ty $(= $default:expr)?
            $(, default $text:literal)? $(, unit $unit:literal)? $(, help $help:literal)?
            $(, required $required:literal)? $(, check $check:path)? => $change:ident;
        )*}
        $(read { $($read:tt)* })?
        $(extra {$( $(#[$extra_meta:meta])* $extra:ident: $extra_type:ty, )*})?
    ) => {
        $crate::keys::table::keys! {
            $(#[doc = $table])+
            $Table($Raw, $Found) {
                $($($read)*)?
                $(
                    $(#[doc = $doc])*
                    $field $($name)?: $kind $(= $default)? $(, default $text)? $(, unit $unit)?
                    $(, help $help)? $(, required $required)? $(, check $check)? => $change;
                )*
            }
        }

        $(#[doc = $table])+
        #[derive(Clone, PartialEq, Debug, serde::Serialize $($(, $derive)+)?)]
        #[allow(private_interfaces, reason = "the fields' types are those that values of a kind have")]
        pub struct $Table {
            $(
                $(#[doc = $doc])*
                #[doc = concat!(
                    "\n\n`", stringify!($kind), "`" $(, ", ", $unit)?
                    $(, "; default `", stringify!($default), "`")?
                )]
                $(#[serde($($serde)+)])?
                pub $field: $crate::keys::table::field!($kind $(, $default)?),
            )*
            $($( $(#[$extra_meta])* pub $extra: $extra_type, )*)?
        }

        impl $Found {
            /// The checked values, with those that hold where none is written.
            pub(crate) fn finish(self $($(, $given: $given_type)+)? $($(, $extra: $extra_type)*)?) -> $Table {
                $(
                    let $field = <$kind as $crate::keys::kind::KeyContent>::finish(self.$field);
                    $(let $field = $field.unwrap_or_else(|| $default);)?
                )*
                $Table { $($field,)* $($($extra,)*)? }
            }
        }

        impl $Table {
            /// The keys whose values differ, in the order of the file.
            pub fn differing(&self, other: &$Table) -> Vec<&'static $crate::keys::key::ConfigKey> {
                let mut keys = Vec::new();
                $(if self.$field != other.$field {
                    keys.push(&$Raw::$field);
                })*
                keys
            }
        }
    };
}

/// The type of a field.
macro_rules! field {
    ($kind:ty) => { Option<<$kind as $crate::keys::kind::KeyContent>::Value> };
    ($kind:ty, $default:expr) => { <$kind as $crate::keys::kind::KeyContent>::Value };
}

/// The file's word for a field.
macro_rules! name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $name:literal) => {
        $name
    };
}

/// What holds where nothing is written, in words; of what is required, nothing.
macro_rules! default {
    ($kind:ty, [$text:literal] [] $($default:expr)?) => {
        || Some($text.to_owned())
    };
    ($kind:ty, [] [] $default:expr) => {
        || {
            let default: <$kind as $crate::keys::kind::KeyContent>::Value = $default;
            $crate::keys::kind::shown_default(&default)
        }
    };
    ($kind:ty, $($rest:tt)*) => {
        || None
    };
}

pub(crate) use {default, field, keys, name, table};
