"""The receive path: `ingress` parses, verifies, buffers and steers; `egress` splits and places."""
