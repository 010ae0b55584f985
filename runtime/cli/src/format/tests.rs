use super::Template;
use proptest::prelude::*;
use serde_json::{Value, json};

fn data() -> Value {
    json!({
        "Name": "/web", "RestartCount": 2, "Empty": [], "Health": null,
        "State": { "Running": true, "ExitCode": 0, "Status": "running" },
        "Config": { "Env": ["A=1", "B=2"], "Labels": { "com.example/x": "y", "z": "1" } },
        "Ports": { "80/tcp": [{ "HostIp": "0.0.0.0", "HostPort": "8080" }] },
    })
}

fn fill(template: &str) -> Result<String, String> {
    let filled = Template::parse(template).and_then(|template| template.fill(&data()));
    filled.map_err(|error| error.to_string())
}

/// Left: what people write. Right: what Docker prints.
#[test]
fn templates_of_everyday_work() {
    let rows = [
        ("{{.State.Running}}", "true"),
        ("{{ .Name }} {{.RestartCount}}", "/web 2"),
        ("{{json .Config.Env}}", r#"["A=1","B=2"]"#),
        ("{{.Config.Env}}", "[A=1 B=2]"),
        ("{{.State}}", "map[ExitCode:0 Running:true Status:running]"),
        ("{{range .Config.Env}}{{println .}}{{end}}", "A=1\nB=2\n"),
        ("{{range $i, $e := .Config.Env}}{{if $i}},{{end}}{{$e}}{{end}}", "A=1,B=2"),
        ("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}", "com.example/x=y;z=1;"),
        ("{{index .Config.Labels \"com.example/x\"}}", "y"),
        ("{{index .Config.Labels \"none\"}}", "<no value>"),
        ("{{(index (index .Ports \"80/tcp\") 0).HostPort}}", "8080"),
        ("{{range $p, $conf := .Ports}}{{$p}} -> {{(index $conf 0).HostPort}}{{end}}", "80/tcp -> 8080"),
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        ("{{if eq .State.Status \"exited\"}}a{{else if eq .State.Status \"running\"}}b{{else}}c{{end}}", "b"),
        ("{{if and .State.Running (not .Health)}}ok{{end}}", "ok"),
        ("{{with .Health}}{{.Status}}{{else}}none{{end}}", "none"),
        ("{{with .State}}{{.Status}} of {{$.Name}}{{end}}", "running of /web"),
        ("{{range .Empty}}x{{else}}nothing{{end}}", "nothing"),
        ("{{join .Config.Env \", \"}}", "A=1, B=2"),
        ("{{.Name | printf \"%q\"}}", "\"/web\""),
        ("{{upper .State.Status}} {{title .State.Status}} {{len .Config.Env}}", "RUNNING Running 2"),
        ("{{truncate .State.Status 3}}{{pad \"x\" 1 2}}|", "run x  |"),
        ("{{index (split .Name \"/\") 1}}", "web"),
        ("{{printf \"%-5s|%3d|%v%%\" .Name .RestartCount true}}", "/web |  2|true%"),
        ("a {{- /* gone */ -}} b", "ab"),
        ("a  {{- .Name -}}  b", "a/webb"),
        ("{{$x := .Name}}{{range .Config.Env}}{{$x = .}}{{end}}{{$x}}", "B=2"),
        ("{{\"}}\"}}{{`a\\n`}}{{\"\\t\"}}", "}}a\\n\t"),
        ("{{if or .Health .State.Running}}y{{end}}{{le 1 2}}{{gt 1 2.5}}{{ne 1 1.0}}", "ytruefalsefalse"),
        ("{{print \"a\" 1}}", "a1"),
        ("{{json .}}", &serde_json::to_string(&data()).unwrap()),
        ("{{if and .Health .Health.Status}}x{{end}}", ""),
    ];
    for (template, expected) in rows {
        assert_eq!(fill(template).as_deref(), Ok(expected), "{template}");
    }
}

#[test]
fn mistakes_are_named() {
    let rows = [
        ("{{.Nane}}", "no field Nane; there are: Config, Empty"),
        ("{{.Name.x}}", "no field x"),
        ("{{nope .}}", "no function nope"),
        ("{{if .Name}}", "no {{end}}"),
        ("{{end}}", "without a beginning"),
        ("{{.Name", "no end }}"),
        ("{{index .Config.Env 7}}", "no item 7"),
        ("{{$x}}", "no variable $x"),
        ("{{.Name .Name}}", "no function"),
        ("{{template \"x\"}}", "not known here"),
        ("{{}}", "missing"),
        ("{{(.Name}}", "no )"),
        ("{{.Name | \"x\"}}", "a function"),
        ("{{range .Name}}{{end}}", "lists and maps"),
    ];
    for (template, says) in rows {
        let error = fill(template).unwrap_err();
        assert!(error.contains(says), "{template}: {error}");
    }
}

#[test]
fn nothing_goes_on_for_ever() {
    let deep = "{{if .}}".repeat(5000) + &"{{end}}".repeat(5000);
    assert!(Template::parse(&deep).is_err());
    assert!(Template::parse(&("{{".to_owned() + &"(".repeat(5000) + &")".repeat(5000) + "}}")).is_err());
    assert!(Template::parse(&("{{if .}}".to_owned() + &"{{else if .}}".repeat(5000) + "{{end}}")).is_err());
    assert!(Template::parse(&"x".repeat(1 << 20)).is_err());
    let list = Value::from(vec![0; 2000]);
    let nested = Template::parse("{{range $}}{{range $}}x{{end}}{{end}}").unwrap();
    assert!(nested.fill(&list).is_err());
}

proptest! {
    #[test]
    fn no_template_panics(text in "(\\{\\{|\\}\\}|[a-z.$|()\"` ,:=0-9-]|range|if|else|end|with|index|json|printf|%[0-9a-z]|é)*") {
        if let Ok(template) = Template::parse(&text) {
            let _ = template.fill(&data());
        }
    }

    #[test]
    fn text_without_actions_is_itself(text in "[^{]*") {
        prop_assert_eq!(fill(&text), Ok(text));
    }

    #[test]
    fn json_comes_back(key in "[A-Za-z_][A-Za-z0-9_]*", text in ".*", number in any::<i64>()) {
        let value = json!({ key.clone(): { "t": text, "n": number } });
        let filled = Template::parse(&format!("{{{{json .{key}}}}}")).unwrap().fill(&value).unwrap();
        prop_assert_eq!(serde_json::from_str::<Value>(&filled).unwrap(), value[&key].clone());
    }
}
