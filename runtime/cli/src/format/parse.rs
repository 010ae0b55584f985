//! Words to a tree.

use super::lex::{Piece, Word, pieces};
use super::{Result, error};
use serde_json::Value;

/// How deep things may be inside each other.
const MAX_DEPTH: usize = 64;

/// A part of a template.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// As it is.
    Text(String),
    /// A value to be printed, or to be given a name.
    Value(Pipeline),
    /// `if`, `with`; `with` moves the dot.
    If { test: Pipeline, then: Vec<Node>, otherwise: Vec<Node>, with: bool },
    /// `range`
    Range { over: Pipeline, each: Vec<Node>, none: Vec<Node> },
}

/// Commands, each of which has the value of the one before as its last argument; and names for what comes out.
#[derive(Debug, Clone, PartialEq)]
pub struct Pipeline {
    /// `$x :=`, `$i, $x :=`, without the `$`.
    pub names: Vec<String>,
    /// Whether they are new.
    pub declares: bool,
    /// At least one.
    pub commands: Vec<Command>,
}

/// A function with arguments, or one value.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// The function.
    pub function: Option<String>,
    /// Its arguments; without a function exactly one.
    pub arguments: Vec<Argument>,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Argument {
    /// `.a.b`
    Field(Vec<String>),
    /// `$x.a`
    Variable(String, Vec<String>),
    /// A text, a number, true, false, nil.
    Literal(Value),
    /// `( … ).a`
    Inner(Box<Pipeline>, Vec<String>),
}

/// Reads a template.
pub fn parse(text: &str) -> Result<Vec<Node>> {
    let mut pieces = pieces(text)?.into_iter();
    let (nodes, end) = block(&mut pieces, 0)?;
    match end {
        Stop::Text => Ok(nodes),
        Stop::End => error("{{end}} without a beginning"),
        Stop::Else(_) => error("{{else}} without a beginning"),
    }
}

/// What ended a block.
enum Stop {
    Text,
    End,
    /// With the words behind it, as in `else if`.
    Else(Vec<Word>),
}

fn block(pieces: &mut impl Iterator<Item = Piece>, depth: usize) -> Result<(Vec<Node>, Stop)> {
    if depth > MAX_DEPTH {
        return error("it is nested too deep");
    }
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next() {
        let words = match piece {
            Piece::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Piece::Action(words) => words,
        };
        match words.first() {
            Some(Word::Name(name)) if name == "end" => return Ok((nodes, Stop::End)),
            Some(Word::Name(name)) if name == "else" => return Ok((nodes, Stop::Else(words[1..].to_vec()))),
            Some(Word::Name(name)) if matches!(name.as_str(), "if" | "with" | "range") => {
                nodes.push(control(&words, pieces, depth)?);
            }
            Some(Word::Name(name))
                if matches!(name.as_str(), "define" | "template" | "block" | "break" | "continue") =>
            {
                return error(format!("{name} is not known here"));
            }
            _ => nodes.push(Node::Value(pipeline(&words)?)),
        }
    }
    Ok((nodes, Stop::Text))
}

fn control(words: &[Word], pieces: &mut impl Iterator<Item = Piece>, depth: usize) -> Result<Node> {
    let Some(Word::Name(kind)) = words.first() else { return error("an action is empty") };
    let test = pipeline(&words[1..])?;
    let (then, end) = block(pieces, depth + 1)?;
    let otherwise = match end {
        Stop::End => Vec::new(),
        Stop::Text => return error(format!("{{{{{kind}}}}} has no {{{{end}}}}")),
        Stop::Else(words) if words.is_empty() => match block(pieces, depth + 1)? {
            (nodes, Stop::End) => nodes,
            (_, Stop::Text) => return error("{{else}} has no {{end}}"),
            (_, Stop::Else(_)) => return error("a second {{else}}"),
        },
        // One {{end}} is for all of them.
        Stop::Else(words) if matches!(words.first(), Some(Word::Name(name)) if name == "if" || name == "with") =>
        {
            if depth >= MAX_DEPTH {
                return error("it is nested too deep");
            }
            // Boxed by the vector; as deep as there are `else if`s, which the text's length bounds.
            vec![control(&words, pieces, depth + 1)?]
        }
        Stop::Else(_) => return error("{{else}} is followed by nothing, if or with"),
    };
    Ok(match kind.as_str() {
        "range" => Node::Range { over: test, each: then, none: otherwise },
        _ => Node::If { test, then, otherwise, with: kind == "with" },
    })
}

fn pipeline(words: &[Word]) -> Result<Pipeline> {
    let mut parser = Parser { words, at: 0, depth: 0 };
    let pipeline = parser.pipeline()?;
    if parser.at < words.len() {
        return error("a ) has no (");
    }
    Ok(pipeline)
}

struct Parser<'a> {
    words: &'a [Word],
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Word> {
        self.words.get(self.at)
    }

    /// `$x :=`, `$i, $x :=`, `$x =` at the beginning.
    fn names(&mut self) -> (Vec<String>, bool) {
        let name = |at: usize| match self.words.get(at) {
            Some(Word::Variable(name, fields)) if !name.is_empty() && fields.is_empty() => Some(name.clone()),
            _ => None,
        };
        let (names, next) = match (name(self.at), self.words.get(self.at + 1), name(self.at + 2)) {
            (Some(one), Some(Word::Comma), Some(two)) => (vec![one, two], self.at + 3),
            (Some(one), _, _) => (vec![one], self.at + 1),
            _ => return (Vec::new(), false),
        };
        let declares = match self.words.get(next) {
            Some(Word::Define) => true,
            Some(Word::Assign) => false,
            _ => return (Vec::new(), false),
        };
        self.at = next + 1;
        (names, declares)
    }

    fn pipeline(&mut self) -> Result<Pipeline> {
        let (names, declares) = self.names();
        let mut commands = vec![self.command()?];
        while self.peek() == Some(&Word::Pipe) {
            self.at += 1;
            let command = self.command()?;
            if command.function.is_none() {
                return error("behind | there must be a function");
            }
            commands.push(command);
        }
        Ok(Pipeline { names, declares, commands })
    }

    fn command(&mut self) -> Result<Command> {
        let mut function = None;
        if let Some(Word::Name(name)) = self.peek()
            && !matches!(name.as_str(), "true" | "false" | "nil")
        {
            function = Some(name.clone());
            self.at += 1;
        }
        let mut arguments = Vec::new();
        while let Some(argument) = self.argument()? {
            arguments.push(argument);
        }
        match (&function, arguments.len()) {
            (None, 0) => error("a value is missing"),
            (None, 2..) => error("a value is followed by another one, and is no function"),
            _ => Ok(Command { function, arguments }),
        }
    }

    fn argument(&mut self) -> Result<Option<Argument>> {
        let argument = match self.peek() {
            None | Some(Word::Pipe | Word::Close(_)) => return Ok(None),
            Some(Word::Field(names)) => Argument::Field(names.clone()),
            Some(Word::Variable(name, fields)) => Argument::Variable(name.clone(), fields.clone()),
            Some(Word::Text(text)) => Argument::Literal(Value::from(text.as_str())),
            Some(Word::Number(number)) => Argument::Literal(Value::Number(number.clone())),
            Some(Word::Name(name)) => match name.as_str() {
                "true" => Argument::Literal(Value::Bool(true)),
                "false" => Argument::Literal(Value::Bool(false)),
                "nil" => Argument::Literal(Value::Null),
                // A function without arguments.
                _ => Argument::Inner(
                    Box::new(Pipeline {
                        names: Vec::new(),
                        declares: false,
                        commands: vec![Command { function: Some(name.clone()), arguments: Vec::new() }],
                    }),
                    Vec::new(),
                ),
            },
            Some(Word::Open) => {
                self.depth += 1;
                if self.depth > MAX_DEPTH {
                    return error("it is nested too deep");
                }
                self.at += 1;
                let inner = self.pipeline()?;
                self.depth -= 1;
                match self.peek() {
                    Some(Word::Close(fields)) => Argument::Inner(Box::new(inner), fields.clone()),
                    _ => return error("a ( has no )"),
                }
            }
            Some(Word::Comma | Word::Define | Word::Assign) => return error("a , or = is out of place"),
        };
        self.at += 1;
        Ok(Some(argument))
    }
}
