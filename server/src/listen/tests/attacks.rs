//! Raw HTTP/2 frames that exhaust servers without these limits.

use super::*;

const PREFACE_AND_SETTINGS: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const GOAWAY: u8 = 0x7;
const WINDOW_UPDATE: u8 = 0x8;
const END_HEADERS: u8 = 0x4;
const ENHANCE_YOUR_CALM: u32 = 0xb;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut out = vec![length[1], length[2], length[3], kind, flags];
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// `POST http://a/`, from the static table of HPACK.
fn open(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, b"\x83\x86\x84\x01\x01a")
}

/// Sends the attack, and answers the error code of the GOAWAY the server ends the connection with.
async fn goaway_after(server: &TestServer, attack: Vec<u8>) -> u32 {
    let tcp = server.tcp().await;
    let (mut read, mut write) = tcp.into_split();
    let send = async {
        // The server may close before it read everything.
        let _ = write.write_all(PREFACE_AND_SETTINGS).await;
        let _ = write.write_all(&attack).await;
        write
    };
    let receive = async {
        loop {
            let mut head = [0; 9];
            read.read_exact(&mut head).await.expect("a GOAWAY before the end");
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).expect("fits")];
            read.read_exact(&mut payload).await.expect("a whole frame");
            if head[3] == GOAWAY {
                return u32::from_be_bytes(payload[4..8].try_into().expect("four bytes"));
            }
        }
    };
    let (_write, code) =
        timeout(GENEROUS, async { tokio::join!(send, receive) }).await.expect("an answer");
    code
}

#[tokio::test]
async fn rapid_reset_ends_the_connection() {
    let server = start(quick()).await;
    let attack = (0..2000_u32)
        .flat_map(|i| [open(2 * i + 1), frame(RST_STREAM, 0, 2 * i + 1, &[0, 0, 0, 8])])
        .flatten()
        .collect();
    assert_eq!(goaway_after(&server, attack).await, ENHANCE_YOUR_CALM);
    let mut client = server.client().await;
    assert_eq!(code(call(&mut client, server.request("ok")).await.headers()), Code::Ok);
    server.stop().await;
}

#[tokio::test]
async fn made_you_reset_ends_the_connection() {
    let server = start(quick()).await;
    // The window of each stream overflows, and the server has to reset it.
    let attack = (0..2000_u32)
        .flat_map(|i| {
            let stream = 2 * i + 1;
            [open(stream), frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes())]
        })
        .flatten()
        .collect();
    assert_eq!(goaway_after(&server, attack).await, ENHANCE_YOUR_CALM);
    server.stop().await;
}
