"""Headers in and out: Ethernet, ARP, IPv4, ICMP echo, TCP, as functions over bytes and rows."""
