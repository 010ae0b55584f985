//! UDP datagrams, passed on: a socket for each client, for as long as it speaks.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// Clients at once; the datagrams of others are lost meanwhile, as on a full wire.
const MAX: usize = 256;
/// A client that is silent for so long, and is not answered, is forgotten.
const IDLE: Duration = Duration::from_secs(90);
/// The largest datagram.
const DATAGRAM: usize = 65_535;

/// Passes on for ever.
pub async fn relay(front: UdpSocket, target: SocketAddr) {
    let front = Arc::new(front);
    let mut clients: HashMap<SocketAddr, (Arc<UdpSocket>, JoinHandle<()>)> = HashMap::new();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        // An error is an earlier datagram's that could not be delivered.
        let Ok((count, client)) = front.recv_from(&mut buffer).await else { continue };
        clients.retain(|_, (_, task)| !task.is_finished());
        let back = match clients.get(&client) {
            Some((back, _)) => back.clone(),
            None if clients.len() >= MAX => continue,
            None => {
                let Ok(back) = connect(target).await else { continue };
                let task = tokio::spawn(answers(front.clone(), back.clone(), client));
                clients.insert(client, (back.clone(), task));
                back
            }
        };
        let _ = back.send(&buffer[..count]).await;
    }
}

async fn connect(target: SocketAddr) -> std::io::Result<Arc<UdpSocket>> {
    let any: SocketAddr = if target.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(target).await?;
    Ok(Arc::new(socket))
}

async fn answers(front: Arc<UdpSocket>, back: Arc<UdpSocket>, client: SocketAddr) {
    let mut buffer = vec![0; DATAGRAM];
    while let Ok(received) = tokio::time::timeout(IDLE, back.recv(&mut buffer)).await {
        match received {
            Ok(count) => drop(front.send_to(&buffer[..count], client).await),
            // The pod refuses: as silent as the wire would be.
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_client_gets_its_own_answers() {
        let pod = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let front = UdpSocket::bind("[::1]:0").await.unwrap();
        let address = front.local_addr().unwrap();
        tokio::spawn(relay(front, pod.local_addr().unwrap()));
        let clients = [UdpSocket::bind("[::1]:0").await.unwrap(), UdpSocket::bind("[::1]:0").await.unwrap()];
        let mut buffer = [0; 16];
        for (client, word) in clients.iter().zip([b"a", b"b"]) {
            client.send_to(word, address).await.unwrap();
            let (count, from) = pod.recv_from(&mut buffer).await.unwrap();
            pod.send_to(&buffer[..count], from).await.unwrap();
            let (count, _) = client.recv_from(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..count], word);
        }
    }
}
