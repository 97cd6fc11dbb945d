//! Expressions, the words in which a program asks for users: `email = ? and (name != ? or age > ?)`
//! with one argument for each `?`. They become the conditions of `query`; there is no SQL here.
//!
//! ```text
//! any   = all ("or" all)*                    and binds stronger than or
//! all   = one ("and" one)*
//! one   = "(" any ")" | attribute operator "?"
//! ```
//!
//! Words of the language are read by their place, in any case: an attribute may be called `or`.

use serde_json::Value;

use super::query::{CONDITIONS_MAX, Direction, Filter, Operator, Order, Subject};
use super::{Condition, UserSchema};
use crate::values::error::{Error, Result};

/// A hundred conditions on the longest names are shorter.
const CHARS_MAX: usize = 20_000;
/// Nobody reads deeper; and each one takes a frame of the stack.
const DEPTH_MAX: usize = 20;
/// Values of all lists together: SQLite takes 32 766 arguments a statement, PostgreSQL 65 535.
const VALUES_MAX: usize = 10_000;
/// How much of what was found instead is said.
const SHOWN_CHARS_MAX: usize = 40;

/// The filter that an expression and its arguments mean. No expression means everyone. An error is
/// about `expression`, and says where, or about `arguments`, and says which.
pub fn filter(schema: &UserSchema, expression: &str, arguments: &[Value]) -> Result<Filter> {
    let tree = read(expression)?;
    let count = tree.count();
    if arguments.len() != count {
        let few = if arguments.len() < count { "few" } else { "many" };
        let given = arguments.len();
        let why = format!("too {few}: the expression has {count} ?, and {given} are given");
        return Err(Error::invalid("arguments", why));
    }
    let values: usize = arguments.iter().filter_map(Value::as_array).map(Vec::len).sum();
    if values > VALUES_MAX {
        let why = format!("at most {VALUES_MAX} values in all lists together: ask several times");
        return Err(Error::invalid("arguments", why));
    }
    let mut rest = (1..).zip(arguments);
    tree.try_map(&mut |term: Term<'_>| {
        let (number, value) =
            rest.next().ok_or_else(|| Error::Internal("a term without its argument".into()))?;
        condition(schema, &term, (number, value))
    })
}

fn condition(schema: &UserSchema, term: &Term<'_>, argument: (usize, &Value)) -> Result<Condition> {
    let Term { name, at, operator } = *term;
    let (number, value) = argument;
    let here = |why: String| {
        Error::invalid("expression", format!("at character {at}: {} {why}", shown(name)))
    };
    let subject = Subject::of(schema, name).map_err(|error| told(error, here))?;
    subject.check(operator).map_err(|error| told(error, here))?;
    subject.compare(operator, value).map_err(|error| {
        told(error, |why| {
            Error::invalid("arguments", format!("number {number}, for {name}: {why}"))
        })
    })
}

/// The sort order of names; `-` before a name sorts by it downwards. An error is about `sort`.
pub fn sort(schema: &UserSchema, names: &[String]) -> Result<Vec<Order>> {
    let order = |name: &String| {
        let (name, direction) = match name.strip_prefix('-') {
            Some(name) => (name, Direction::Down),
            None => (name.as_str(), Direction::Up),
        };
        Order::new(schema, name, direction).map_err(|error| {
            told(error, |why| Error::invalid("sort", format!("{} {why}", shown(name))))
        })
    };
    names.iter().map(order).collect()
}

/// An error about an attribute as one about what the caller sent.
fn told(error: Error, tell: impl FnOnce(String) -> Error) -> Error {
    match error {
        Error::Invalid { why, .. } => tell(why),
        other => other,
    }
}

/// A condition of which the value is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Term<'a> {
    name: &'a str,
    /// The place of its name, counted in characters from 1.
    at: usize,
    operator: Operator,
}

fn read(text: &str) -> Result<Filter<Term<'_>>> {
    if text.chars().nth(CHARS_MAX).is_some() {
        let why = format!("must have at most {CHARS_MAX} characters");
        return Err(Error::invalid("expression", why));
    }
    let mut reader = Reader { rest: text, at: 1, token: Token::End, end: 1, depth: 0, terms: 0 };
    reader.step();
    if reader.token == Token::End {
        return Ok(Filter::default());
    }
    let tree = reader.any()?;
    match reader.token {
        Token::End => Ok(tree),
        _ => Err(reader.expected("and, or, or the end")),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    /// Letters, digits and `_`.
    Word(&'a str),
    /// A run of `=`, `!`, `<` and `>`.
    Sign(&'a str),
    /// Any other character.
    Other(&'a str),
    End,
}

/// Looks at one token, and knows what is behind it.
struct Reader<'a> {
    /// What follows the token.
    rest: &'a str,
    /// Where the token begins, counted in characters from 1.
    at: usize,
    token: Token<'a>,
    /// Where it ends: the place of the first character of `rest`.
    end: usize,
    /// How many parentheses are open.
    depth: usize,
    terms: usize,
}

impl<'a> Reader<'a> {
    /// Goes on to the next token.
    fn step(&mut self) {
        let text = self.rest.trim_start();
        let (gap, _) = self.rest.split_at(self.rest.len() - text.len());
        self.at = self.end + gap.chars().count();
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let is_sign = |c: char| matches!(c, '=' | '!' | '<' | '>');
        let run = |is: &dyn Fn(char) -> bool| text.find(|c: char| !is(c)).unwrap_or(text.len());
        let (length, token): (usize, fn(&'a str) -> Token<'a>) = match text.chars().next() {
            None => (0, |_| Token::End),
            Some(c) if is_word(c) => (run(&is_word), Token::Word),
            Some(c) if is_sign(c) => (run(&is_sign), Token::Sign),
            Some(c) => (c.len_utf8(), Token::Other),
        };
        let (found, rest) = text.split_at(length);
        self.token = token(found);
        self.end = self.at + found.chars().count();
        self.rest = rest;
    }

    /// Goes on if the token is this word, in any case.
    fn takes(&mut self, wanted: &str) -> bool {
        let is = matches!(self.token, Token::Word(word) if word.eq_ignore_ascii_case(wanted));
        if is {
            self.step();
        }
        is
    }

    fn any(&mut self) -> Result<Filter<Term<'a>>> {
        let first = self.all()?;
        let mut parts = vec![];
        while self.takes("or") {
            parts.push(self.all()?);
        }
        Ok(joined(first, parts, Filter::Any))
    }

    fn all(&mut self) -> Result<Filter<Term<'a>>> {
        let first = self.one()?;
        let mut parts = vec![];
        while self.takes("and") {
            parts.push(self.one()?);
        }
        Ok(joined(first, parts, Filter::All))
    }

    fn one(&mut self) -> Result<Filter<Term<'a>>> {
        match self.token {
            Token::Word(name) => Ok(Filter::One(self.term(name)?)),
            Token::Other("(") => {
                if self.depth == DEPTH_MAX {
                    let why = format!("at most {DEPTH_MAX} parentheses may be open");
                    return Err(self.wrong(&why));
                }
                self.depth += 1;
                self.step();
                let inner = self.any()?;
                if self.token != Token::Other(")") {
                    return Err(self.expected("and, or, or )"));
                }
                self.step();
                self.depth -= 1;
                Ok(inner)
            }
            _ => Err(self.expected("an attribute or (")),
        }
    }

    fn term(&mut self, name: &'a str) -> Result<Term<'a>> {
        let at = self.at;
        if self.terms == CONDITIONS_MAX {
            return Err(self.wrong(&format!("at most {CONDITIONS_MAX} conditions")));
        }
        self.terms += 1;
        self.step();
        let operator = self.operator()?;
        if self.token != Token::Other("?") {
            return Err(self.expected("? (the value itself goes into arguments)"));
        }
        self.step();
        Ok(Term { name, at, operator })
    }

    fn operator(&mut self) -> Result<Operator> {
        let sign = match self.token {
            Token::Sign("=") => Some(Operator::Is),
            Token::Sign("!=") => Some(Operator::IsNot),
            Token::Sign("<") => Some(Operator::Less),
            Token::Sign("<=") => Some(Operator::AtMost),
            Token::Sign(">") => Some(Operator::Greater),
            Token::Sign(">=") => Some(Operator::AtLeast),
            _ => None,
        };
        if let Some(operator) = sign {
            self.step();
            return Ok(operator);
        }
        if self.takes("contains") {
            return Ok(Operator::Contains);
        }
        if self.takes("in") {
            return Ok(Operator::In);
        }
        for (word, next, operator) in
            [("starts", "with", Operator::StartsWith), ("not", "in", Operator::NotIn)]
        {
            if self.takes(word) {
                let is_whole = self.takes(next);
                return is_whole.then_some(operator).ok_or_else(|| self.expected(next));
            }
        }
        let known = "an operator (= != > < >= <=, contains, starts with, in, not in)";
        Err(self.expected(known))
    }

    fn expected(&self, wanted: &str) -> Error {
        let found = match self.token {
            Token::Word(text) | Token::Sign(text) | Token::Other(text) => shown(text),
            Token::End => "the end".to_owned(),
        };
        self.wrong(&format!("expected {wanted}, found {found}"))
    }

    fn wrong(&self, why: &str) -> Error {
        Error::invalid("expression", format!("at character {}: {why}", self.at))
    }
}

/// What stands alone is not joined to anything.
fn joined<T>(
    first: Filter<T>,
    more: Vec<Filter<T>>,
    join: fn(Vec<Filter<T>>) -> Filter<T>,
) -> Filter<T> {
    if more.is_empty() {
        return first;
    }
    join(std::iter::once(first).chain(more).collect())
}

/// A piece of what the caller sent, as it may stand in an answer.
fn shown(text: &str) -> String {
    let start: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    let more = if start.len() < text.len() { "…" } else { "" };
    format!("{start:?}{more}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;
    use serde_json::json;

    use super::*;
    use crate::users::FieldType;

    fn schema() -> UserSchema {
        let choice = FieldType::Choice(vec!["clerk".into(), "chef".into()]);
        let fields = [
            ("name", FieldType::Text),
            ("email", FieldType::Text),
            ("age", FieldType::Integer),
            ("rate", FieldType::Number),
            ("active", FieldType::Boolean),
            ("born", FieldType::Date),
            ("role", choice),
            // Words of the language are good names.
            ("or", FieldType::Text),
            ("not", FieldType::Text),
        ];
        UserSchema(fields.map(|(name, kind)| (name.to_owned(), kind)).into())
    }

    /// The tree in as few signs as possible: its terms by name, `&` for all, `|` for any.
    fn brief(tree: &Filter<Term<'_>>) -> String {
        let list = |parts: &[Filter<Term<'_>>], sign: &str| {
            format!("({})", parts.iter().map(brief).collect::<Vec<_>>().join(sign))
        };
        match tree {
            Filter::All(parts) => list(parts, "&"),
            Filter::Any(parts) => list(parts, "|"),
            Filter::One(term) => term.name.to_owned(),
        }
    }

    fn words(operator: Operator) -> &'static str {
        match operator {
            Operator::Is => "=",
            Operator::IsNot => "!=",
            Operator::Less => "<",
            Operator::AtMost => "<=",
            Operator::Greater => ">",
            Operator::AtLeast => ">=",
            Operator::Contains => "contains",
            Operator::StartsWith => "starts with",
            Operator::In => "in",
            Operator::NotIn => "not in",
            Operator::IsNull => unreachable!("no word means it"),
        }
    }

    #[test]
    fn and_binds_stronger_than_or_and_words_are_read_by_their_place() {
        for (text, wanted) in [
            ("", "()"),
            (" \n\t", "()"),
            ("name = ?", "name"),
            ("name=?", "name"),
            ("((name=?))", "name"),
            ("a = ? or b = ? and c = ? or d = ?", "(a|(b&c)|d)"),
            ("(a = ? or b = ?) and c = ?", "((a|b)&c)"),
            ("email = ? and (name != ? or age > ?)", "(email&(name|age))"),
            ("a = ? AND (b = ? And (c = ?)) oR d = ?", "((a&(b&c))|d)"),
            ("or = ? or and = ? and in in ? or not not in ?", "(or|(and&in)|not)"),
            ("contains contains ? and starts starts  with ?", "(contains&starts)"),
            ("a>=?and(b<?)or(c)!=?", "?"),
        ] {
            let found = read(text);
            let found = found.map_or_else(|_| "?".to_owned(), |tree| brief(&tree));
            assert_eq!(found, wanted, "{text:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let many = vec!["a = ?"; 101].join(" or ");
        let deep = format!("{}a = ?{}", "(".repeat(21), ")".repeat(21));
        for (text, at, wanted) in [
            ("name", 5, "expected an operator"),
            ("name = ", 8, "expected ?"),
            ("name = 'Ann'", 8, "expected ? (the value itself goes into arguments), found \"'\""),
            ("age > 18", 7, "found \"18\""),
            ("name == ?", 6, "expected an operator"),
            ("name like ?", 6, "found \"like\""),
            ("name starts ?", 13, "expected with"),
            ("name not ?", 10, "expected in"),
            ("name = ? ?", 10, "expected and, or, or the end"),
            ("name = ? xor age = ?", 10, "found \"xor\""),
            ("name = ? and", 13, "expected an attribute or (, found the end"),
            ("and", 4, "expected an operator"),
            ("()", 2, "expected an attribute or ("),
            ("(name = ?", 10, "expected and, or, or )"),
            ("name = ?)", 9, "expected and, or, or the end"),
            ("? = name", 1, "expected an attribute or ("),
            ("name = ?; drop table users", 9, "found \";\""),
            ("名前 =! ?", 4, "found \"=!\""),
            ("名前 = ? ! ?", 8, "found \"!\""),
            (many.as_str(), 901, "at most 100 conditions"),
            (deep.as_str(), 21, "at most 20 parentheses"),
        ] {
            let Err(Error::Invalid { field, why }) = read(text) else { panic!("{text}") };
            assert_eq!(field, "expression", "{text}");
            let place = format!("at character {at}: ");
            assert!(why.starts_with(&place) && why.contains(wanted), "{text}: {why}");
        }
        let long = "a".repeat(CHARS_MAX + 1);
        assert!(matches!(read(&long), Err(Error::Invalid { why, .. }) if why.len() < 100));
    }

    #[test]
    fn arguments_must_be_as_many_and_fit() {
        let list = |length: usize| json!(vec!["x"; length]);
        let lists =
            |count: usize| (vec!["name in ?"; count].join(" or "), json!(vec![list(1000); count]));
        let (ten, ten_lists) = lists(10);
        let (eleven, eleven_lists) = lists(11);
        for (text, arguments, field, wanted) in [
            ("name = ?", json!([]), "arguments", "too few: the expression has 1 ?, and 0"),
            ("", json!(["x"]), "arguments", "too many"),
            ("name = ?", json!([7]), "arguments", "number 1, for name: must be a text"),
            ("name = ? or age > ?", json!(["a", "7"]), "arguments", "number 2, for age: must be a"),
            ("age > ?", json!([7.5]), "arguments", "a whole number"),
            ("active = ?", json!(["true"]), "arguments", "true or false"),
            ("born < ?", json!(["1.1.2000"]), "arguments", "a date like"),
            ("role = ?", json!(["king"]), "arguments", "one of clerk, chef"),
            ("name = ?", json!([["a"]]), "arguments", "a list goes with in and not in"),
            ("name in ?", json!(["a"]), "arguments", "must be an array"),
            ("name in ?", json!([null]), "arguments", "must be an array"),
            ("age in ?", json!([[1, "2"]]), "arguments", "a whole number"),
            ("name not in ?", json!([list(1001)]), "arguments", "at most 1000 values"),
            (eleven.as_str(), eleven_lists, "arguments", "at most 10000 values"),
            ("age < ?", json!([null]), "arguments", "null goes with = and !="),
            ("name contains ?", json!([null]), "arguments", "null goes with = and !="),
            ("name contains ?", json!([7]), "arguments", "must be a text"),
            ("name = ?", json!(["a\u{0}"]), "arguments", "must be a text"),
            ("id = ?", json!([7]), "arguments", "must be a text"),
            ("_updated_at > ?", json!(["soon"]), "arguments", "a moment like"),
            ("age contains ?", json!(["7"]), "expression", "at character 1: \"age\" is no text"),
            ("name=? and id contains ?", json!(["a", "7"]), "expression", "at character 12"),
            ("nick = ?", json!(["x"]), "expression", "\"nick\" is no attribute of a user; known:"),
            ("Name = ?", json!(["x"]), "expression", "no attribute"),
        ] {
            let arguments = arguments.as_array().expect("a list");
            let Err(Error::Invalid { field: named, why }) = filter(&schema(), text, arguments)
            else {
                panic!("{text}")
            };
            assert_eq!(named, field, "{text}: {why}");
            assert!(why.contains(wanted), "{text}: {why}");
        }
        let ten_lists = ten_lists.as_array().expect("a list");
        assert!(filter(&schema(), &ten, ten_lists).is_ok());
    }

    #[test]
    fn a_sort_order_is_a_list_of_names() {
        let good = ["name", "-age", "_updated_at", "updated_at", "-id"].map(str::to_owned);
        assert_eq!(sort(&schema(), &good).expect("an order").len(), 5);
        for wrong in ["", "-", "--age", "+age", "nick", "age desc"] {
            let Err(Error::Invalid { field, .. }) = sort(&schema(), &[wrong.to_owned()]) else {
                panic!("{wrong:?}")
            };
            assert_eq!(field, "sort");
        }
    }

    /// A tree of terms: their names, and the signs of their operators.
    type Tree = Filter<(&'static str, Operator)>;

    fn trees() -> impl Strategy<Value = Tree> {
        let names = select(vec!["name", "age", "or", "And", "in", "not", "starts", "_id", "ä1"]);
        let operators = select(vec![
            Operator::Is,
            Operator::IsNot,
            Operator::Less,
            Operator::AtMost,
            Operator::Greater,
            Operator::AtLeast,
            Operator::Contains,
            Operator::StartsWith,
            Operator::In,
            Operator::NotIn,
        ]);
        let leaf = (names, operators).prop_map(Filter::One);
        leaf.prop_recursive(3, 30, 4, |inner| {
            let parts = proptest::collection::vec(inner, 2..5);
            (parts, any::<bool>()).prop_map(|(parts, is_all)| {
                if is_all { Filter::All(parts) } else { Filter::Any(parts) }
            })
        })
    }

    /// As someone writes it: with the parentheses that it needs, or with more.
    fn written(tree: &Tree, gap: &str, is_loud: bool, has_more: bool) -> String {
        let word = |word: &str| if is_loud { word.to_uppercase() } else { word.to_owned() };
        let part = |part: &Tree, is_weak: bool| {
            let text = written(part, gap, is_loud, has_more);
            if is_weak || has_more { format!("({gap}{text})") } else { text }
        };
        let (parts, between): (Vec<String>, _) = match tree {
            Filter::One((name, operator)) => {
                let operator = word(words(*operator)).replace(' ', gap);
                return format!("{name}{gap}{operator}{gap}?");
            }
            Filter::All(parts) => {
                let needs = |one: &Tree| !matches!(one, Filter::One(_));
                (parts.iter().map(|one| part(one, needs(one))).collect(), word("and"))
            }
            Filter::Any(parts) => {
                let needs = |one: &Tree| matches!(one, Filter::Any(_));
                (parts.iter().map(|one| part(one, needs(one))).collect(), word("or"))
            }
        };
        parts.join(&format!("{gap}{between}{gap}"))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_it_was_meant(
            tree in trees(),
            gap in select(vec![" ", "  ", "\n\t", "\u{a0}"]),
            is_loud in any::<bool>(),
            has_more in any::<bool>(),
        ) {
            let text = written(&tree, gap, is_loud, has_more);
            let found = read(&text);
            let found = found.map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
            let mut bare = |term: Term<'_>| {
                let at = text.char_indices().nth(term.at - 1).expect("a place").0;
                assert!(text[at..].starts_with(term.name), "{text}: {term:?}");
                Ok((term.name.to_owned(), term.operator))
            };
            let found = found.try_map(&mut bare).expect("a tree");
            let meant = tree.try_map(&mut |(name, operator)| Ok((name.to_owned(), operator)));
            prop_assert_eq!(found, meant.expect("a tree"), "{}", text);
        }

        #[test]
        fn whatever_is_written_is_read_or_refused(
            pieces in proptest::collection::vec(
                select(vec![
                    "name", "age", "or", "and", "in", "not", "starts with", "contains", "=", "!=",
                    "<", ">=", "?", "(", ")", "'", "--", "名", "0", " ",
                ]),
                0..40,
            ),
            text in any::<String>(),
        ) {
            for text in [pieces.join(" "), pieces.concat(), text] {
                match filter(&schema(), &text, &[]) {
                    Ok(filter) => prop_assert_eq!(filter.count(), 0),
                    Err(Error::Invalid { field, .. }) => {
                        prop_assert!(field == "expression" || field == "arguments");
                    }
                    Err(other) => return Err(TestCaseError::fail(format!("{text}: {other}"))),
                }
            }
        }
    }
}
