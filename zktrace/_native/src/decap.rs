//! Tunnels: VXLAN, Geneve, GRE, ERSPAN, IP in IP.
