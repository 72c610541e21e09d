module agentctl.dev/bench/tessera

go 1.25.8

require github.com/transparency-dev/tessera v1.0.4
