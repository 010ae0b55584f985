//! `vial port`: where a container's published ports are on the host.

use super::{print_json, say};
use crate::client::{Client, escape};
use crate::error::{Error, Result};
use crate::list_args::PortArgs;
use hyper::Method;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use vial_api::{Container, Port};

/// Prints them, in Docker's form: all, or where one port of the container is.
///
/// # Errors
/// When there is no such container, or the port that was asked for is not published.
pub async fn port(client: &Client, args: &PortArgs) -> Result<i32> {
    let path = format!("/containers/{}", escape(&args.container));
    let container: Container = client.json(Method::GET, &path).await?;
    if args.json {
        print_json(&container.ports)?;
        return Ok(0);
    }
    let lines = lines(&container.ports, args.port.as_deref());
    if lines.is_empty()
        && let Some(port) = &args.port
    {
        let words = format!("port {port} of {} is not published; see: vial ps", container.name);
        return Err(Error::Message(words));
    }
    for line in lines {
        say(&line)?;
    }
    Ok(0)
}

/// One line for each address of the host; of the container's port `wanted` (`80` or `80/udp`) the addresses alone.
fn lines(ports: &[Port], wanted: Option<&str>) -> Vec<String> {
    let mut lines = Vec::new();
    for port in ports {
        let name = format!("{}/{}", port.container, port.protocol.as_str());
        if wanted.is_some_and(|wanted| name != wanted && name.strip_suffix("/tcp") != Some(wanted)) {
            continue;
        }
        let all = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
        for ip in port.ip.as_ref().map_or(&all[..], std::slice::from_ref) {
            let address = SocketAddr::new(*ip, port.host);
            lines.push(if wanted.is_some() { address.to_string() } else { format!("{name} -> {address}") });
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::lines;
    use vial_api::{Port, Ports};

    #[test]
    fn ports_are_shown_as_docker_does() {
        let ports: Vec<Port> = ["8080:80", "127.0.0.1:5353:53/udp"]
            .iter()
            .flat_map(|text| text.parse::<Ports>().unwrap().0)
            .collect();
        assert_eq!(
            lines(&ports, None),
            ["80/tcp -> 0.0.0.0:8080", "80/tcp -> [::]:8080", "53/udp -> 127.0.0.1:5353"]
        );
        assert_eq!(lines(&ports, Some("80")), ["0.0.0.0:8080", "[::]:8080"]);
        assert_eq!(lines(&ports, Some("53/udp")), ["127.0.0.1:5353"]);
        assert_eq!(lines(&ports, Some("53")), Vec::<String>::new());
    }
}
