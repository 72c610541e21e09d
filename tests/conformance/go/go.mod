module agentctl.dev/conformance

go 1.22

require golang.org/x/mod v0.22.0
