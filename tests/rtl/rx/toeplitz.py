"""The Toeplitz hash bit by bit, and the vectors of the published verification suite."""

KEY = bytes.fromhex(
    "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"
)

# source, source port, destination, destination port, hash over addresses and ports
VECTORS = (
    ("66.9.149.187", 2794, "161.142.100.80", 1766, 0x51CCC178),
    ("199.92.111.2", 14230, "65.69.140.83", 4739, 0xC626B0EA),
    ("24.19.198.95", 12898, "12.22.207.184", 38024, 0x5C2B394A),
    ("38.27.205.30", 48228, "209.142.163.6", 2217, 0xAFC7327F),
    ("153.39.163.191", 44251, "202.188.127.2", 1303, 0x10E828A2),
    ("3ffe:2501:200:1fff::7", 2794, "3ffe:2501:200:3::1", 1766, 0x40207D3D),
    ("3ffe:501:8::260:97ff:fe40:efab", 14230, "ff02::1", 4739, 0xDDE51BBF),
    ("3ffe:1900:4545:3:200:f8ff:fe21:67cf", 44251, "fe80::200:f8ff:fe21:67cf", 38024, 0x02D1FEEF),
)


def toeplitz(key, message):
    """For each bit of the message that is set, the 32 bits of the key from there on."""
    bits = int.from_bytes(key, "big")
    result = 0
    for at in range(8 * len(message)):
        if message[at // 8] >> (7 - at % 8) & 1:
            result ^= bits >> (8 * len(key) - 32 - at) & 0xFFFFFFFF
    return result
