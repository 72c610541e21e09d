// Agentctl-monitor measures a host, a process and an HTTP endpoint, and tells agentd what it saw of one app.
//
//	agentctl-monitor -app my-api -env stage -url http://127.0.0.1:8080/healthz
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"agentctl.dev/clients/go/probes"
	"agentctl.dev/clients/go/signals"
)

// Exit codes are those of agentctl.
const (
	exitUsage       = 2
	exitNotFound    = 3
	exitForbidden   = 4
	exitUnreachable = 8
)

// A share of the host above which it is said to be under pressure.
const pressure = 0.9

// config is the command line; the four monitors have the same.
type config struct {
	app, env, instance, address, tokenFile, tlsCA, id, url, pid string
	plaintext, host                                             bool
	cpus, memoryMiB                                             float64
	every, probeEvery, probeTimeout                             time.Duration
}

func parse(args []string, getenv func(string) string, stderr io.Writer) (config, error) {
	var c config
	flags := flag.NewFlagSet("agentctl-monitor", flag.ContinueOnError)
	flags.SetOutput(stderr)
	address := getenv("AGENTCTL_ADDRESS")
	if address == "" {
		address = "127.0.0.1:7443"
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	flags.StringVar(&c.app, "app", "", "app, as it was onboarded")
	flags.StringVar(&c.env, "env", "", "environment the server serves")
	flags.StringVar(&c.instance, "instance", "", "instance, such as 0 (default: the app as a whole)")
	flags.StringVar(&c.address, "address", address, "HOST:PORT or https://HOST:PORT; also AGENTCTL_ADDRESS")
	flags.StringVar(&c.tokenFile, "token-file", "", "file with the token, mode 0600 (default: AGENTCTL_TOKEN_FILE, then AGENTCTL_TOKEN)")
	flags.StringVar(&c.tlsCA, "tls-ca", "", "certificate authority of the server, PEM")
	flags.BoolVar(&c.plaintext, "plaintext", false, "talk plain text to another host")
	flags.StringVar(&c.id, "id", fmt.Sprintf("%.64s", "monitor-"+host), "who reports")
	flags.StringVar(&c.url, "url", "", "ask this URL for latency and errors")
	flags.StringVar(&c.pid, "pid", "", "CPU and memory of this process: its id, or a file that holds it")
	flags.Float64Var(&c.cpus, "cpus", 0, "cores the process may use (default: all)")
	flags.Float64Var(&c.memoryMiB, "memory-mib", 0, "memory the process may use (default: all)")
	flags.BoolVar(&c.host, "host", false, "CPU and memory of the machine: it is the app's own")
	flags.DurationVar(&c.every, "every", 5*time.Second, "time between signals")
	flags.DurationVar(&c.probeEvery, "probe-every", 500*time.Millisecond, "time between requests")
	flags.DurationVar(&c.probeTimeout, "probe-timeout", 5*time.Second, "longest wait for an answer")
	if err := flags.Parse(args); err != nil {
		return c, err
	}
	problem := ""
	switch {
	case flags.NArg() > 0:
		problem = fmt.Sprintf("unexpected argument `%s`", flags.Arg(0))
	case c.app == "" || c.env == "":
		problem = "-app and -env are required"
	case c.url == "" && c.pid == "" && !c.host:
		problem = "nothing to measure: add -url, -pid or -host"
	case c.pid != "" && c.host:
		problem = "-pid and -host both say whose CPU is the app's, leave out one of them"
	case c.every <= 0 || c.probeEvery <= 0 || c.probeTimeout <= 0:
		problem = "invalid time, expected more than 0, such as 500ms, 5s or 1m"
	}
	if problem != "" {
		fmt.Fprintf(stderr, "agentctl-monitor: %s\n", problem)
		return c, fmt.Errorf("%s", problem)
	}
	return c, nil
}

// measure turns what the probes see into signals.
type measure struct {
	config
	machine probes.Host
	process *probes.Process
	http    *probes.HTTP
}

func newMeasure(ctx context.Context, c config) *measure {
	m := &measure{config: c, machine: probes.Host{Proc: "/proc"}}
	if c.pid != "" {
		m.process = &probes.Process{PID: c.pid, CPUs: c.cpus, Memory: uint64(c.memoryMiB * 1024 * 1024), Proc: "/proc"}
	}
	if c.url != "" {
		m.http = probes.NewHTTP(c.url, c.probeTimeout)
		go m.http.Run(ctx, c.probeEvery)
	}
	return m
}

// look is one signal. What is not known is left out: absent is never zero.
func (m *measure) look() (*signals.Signal, error) {
	seen := &signals.Signal{App: m.app, Instance: m.instance, Conditions: map[string]bool{}}
	machine, err := m.machine.Look()
	if err != nil {
		return nil, err
	}
	// How the host does says nothing about the app by itself, so it travels as a hint beside the numbers.
	if machine.CPU != nil {
		seen.Conditions["host_cpu_high"] = *machine.CPU >= pressure
	}
	if machine.Memory != nil {
		seen.Conditions["host_memory_high"] = *machine.Memory >= pressure
	}
	var usage probes.Usage
	if m.host {
		usage = machine
	}
	if m.process != nil {
		running := false
		if usage, running, err = m.process.Look(time.Now()); err != nil {
			return nil, err
		}
		seen.Conditions["process_running"] = running
	}
	seen.CpuUtilization, seen.MemoryUtilization = atLeastZero(usage.CPU), atLeastZero(usage.Memory)
	if m.http != nil {
		if answers, any := m.http.Take(); any {
			p50, p99 := answers.P50.Seconds(), answers.P99.Seconds()
			seen.LatencyP50Seconds, seen.LatencyP99Seconds, seen.ErrorRatio = &p50, &p99, &answers.ErrorRatio
			seen.Window = durationpb.New(max(answers.Window, time.Millisecond))
		}
	}
	return seen, nil
}

func atLeastZero(share *float64) *float64 {
	if share == nil {
		return nil
	}
	value := max(*share, 0)
	return &value
}

// run works until TERM or Ctrl-C. The last line on stdout is what became of the signals, as JSON.
func run() int {
	c, err := parse(os.Args[1:], os.Getenv, os.Stderr)
	if err == flag.ErrHelp {
		return 0
	}
	if err != nil {
		return exitUsage
	}
	log := func(line string) { fmt.Fprintln(os.Stderr, "agentctl-monitor: "+line) }
	target, err := signals.ParseTarget(c.address, c.tlsCA, c.plaintext)
	if err != nil {
		log(err.Error())
		return exitUsage
	}
	token, err := signals.ReadToken(c.tokenFile, os.Getenv)
	if err != nil {
		log(err.Error())
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	client := signals.New(signals.Options{
		Target: target, Token: token, Environment: c.env, MonitorID: c.id, Log: log,
	})
	measure := newMeasure(ctx, c)
	clock := time.NewTicker(c.every)
	defer clock.Stop()
	for ctx.Err() == nil && client.Refusal() == nil {
		select {
		case <-clock.C:
			seen, err := measure.look()
			if err != nil {
				log("cannot measure: " + err.Error())
				continue
			}
			client.Push(seen)
		case <-ctx.Done():
		}
	}
	complete := client.Close("stopped", 5*time.Second)
	told, _ := json.Marshal(client.Stats())
	fmt.Println(string(told))
	switch refused := client.Refusal(); {
	case refused == nil && complete:
		return 0
	case refused == nil:
		return exitUnreachable
	case refused.Code == codes.NotFound:
		return exitNotFound
	case refused.Code == codes.InvalidArgument:
		return exitUsage
	default:
		return exitForbidden
	}
}

func main() { os.Exit(run()) }
