// Package probes measures: the host and a process through /proc, and an app by asking it over HTTP.
package probes

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Ticks per second in /proc; Linux has had no other number for user space in decades.
const ticks = 100

// Usage is shares of the CPU and of the memory, 0 to 1 and more; nil: not known.
type Usage struct {
	CPU    *float64
	Memory *float64
}

// Host is the machine. CPU is the busy share since the last look, so the first look knows none.
type Host struct {
	// Proc is where /proc is.
	Proc        string
	total, idle uint64
}

// Look is the usage now.
func (h *Host) Look() (Usage, error) {
	content, err := os.ReadFile(filepath.Join(h.Proc, "stat"))
	if err != nil {
		return Usage{}, err
	}
	line, _, _ := strings.Cut(string(content), "\n")
	words := strings.Fields(line)
	if len(words) < 9 {
		return Usage{}, fmt.Errorf("unexpected line `%s` in stat", line)
	}
	var total, idle uint64
	for index, word := range words[1:9] {
		value, err := strconv.ParseUint(word, 10, 64)
		if err != nil {
			return Usage{}, err
		}
		total += value
		if index == 3 || index == 4 {
			idle += value
		}
	}
	var usage Usage
	if h.total > 0 && total > h.total {
		busy := 1 - (float64(idle)-float64(h.idle))/float64(total-h.total)
		usage.CPU = &busy
	}
	h.total, h.idle = total, idle
	memory, err := meminfo(h.Proc)
	if err != nil {
		return Usage{}, err
	}
	used := 1 - float64(memory["MemAvailable"])/float64(memory["MemTotal"])
	usage.Memory = &used
	return usage, nil
}

// Process is one process, against limits: CPUs cores and Memory bytes, those of the machine where they are 0.
type Process struct {
	// PID is a number, or a file that holds one and is read at each look: whoever restarts the process writes it.
	PID    string
	CPUs   float64
	Memory uint64
	// Proc is where /proc is.
	Proc string

	id, started string
	ticks       uint64
	at          time.Time
}

// Look is the usage now; false when the process is gone.
func (p *Process) Look(now time.Time) (Usage, bool, error) {
	id := p.PID
	if _, err := strconv.ParseUint(id, 10, 32); err != nil {
		content, err := os.ReadFile(p.PID)
		if err != nil {
			return p.gone(err)
		}
		id = strings.TrimSpace(string(content))
	}
	content, err := os.ReadFile(filepath.Join(p.Proc, id, "stat"))
	if err != nil {
		return p.gone(err)
	}
	// The name in brackets may hold anything, so what counts begins behind the last bracket.
	words := strings.Fields(string(content[bytes.LastIndexByte(content, ')')+1:]))
	if len(words) < 22 {
		return Usage{}, false, fmt.Errorf("unexpected content of %s/stat", id)
	}
	if words[0] == "Z" {
		return p.gone(fs.ErrNotExist)
	}
	user, err1 := strconv.ParseUint(words[11], 10, 64)
	system, err2 := strconv.ParseUint(words[12], 10, 64)
	pages, err3 := strconv.ParseUint(words[21], 10, 64)
	if err := errors.Join(err1, err2, err3); err != nil {
		return Usage{}, false, err
	}
	var usage Usage
	// The same number with another start time is another process.
	if p.id == id && p.started == words[19] && now.After(p.at) {
		cpus := p.CPUs
		if cpus == 0 {
			cpus = float64(runtime.NumCPU())
		}
		share := (float64(user+system) - float64(p.ticks)) / ticks / now.Sub(p.at).Seconds() / cpus
		usage.CPU = &share
	}
	p.id, p.started, p.ticks, p.at = id, words[19], user+system, now
	limit := p.Memory
	if limit == 0 {
		memory, err := meminfo(p.Proc)
		if err != nil {
			return Usage{}, false, err
		}
		limit = memory["MemTotal"]
	}
	share := float64(pages) * float64(os.Getpagesize()) / float64(limit)
	usage.Memory = &share
	return usage, true, nil
}

func (p *Process) gone(err error) (Usage, bool, error) {
	p.id = ""
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return Usage{}, false, nil
	}
	return Usage{}, false, err
}

// meminfo is /proc/meminfo in bytes.
func meminfo(proc string) (map[string]uint64, error) {
	file, err := os.Open(filepath.Join(proc, "meminfo"))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	found := map[string]uint64{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) < 2 {
			continue
		}
		if kib, err := strconv.ParseUint(words[1], 10, 64); err == nil {
			found[strings.TrimSuffix(words[0], ":")] = kib * 1024
		}
	}
	if found["MemTotal"] == 0 {
		return nil, errors.New("meminfo has no MemTotal")
	}
	return found, nil
}

// Answers is what a span of HTTP probes saw.
type Answers struct {
	P50, P99, Window time.Duration
	ErrorRatio       float64
}

type answer struct {
	took time.Duration
	good bool
}

// HTTP asks one URL again and again, one request at a time. Anything but 2xx and 3xx, and no answer, is an error.
type HTTP struct {
	url    string
	client *http.Client
	lock   sync.Mutex
	seen   []answer
	since  time.Time
}

// NewHTTP probes url; no answer within timeout counts as an answer that took that long.
func NewHTTP(url string, timeout time.Duration) *HTTP {
	// The target is asked itself, whatever proxy this host has for the rest of the world; and each probe connects anew, as a
	// client would that comes by.
	transport := &http.Transport{DisableKeepAlives: true}
	return &HTTP{url: url, client: &http.Client{Timeout: timeout, Transport: transport}, since: time.Now()}
}

// Run probes until ctx ends.
func (h *HTTP) Run(ctx context.Context, every time.Duration) {
	clock := time.NewTicker(every)
	defer clock.Stop()
	for ctx.Err() == nil {
		h.Ask()
		select {
		case <-clock.C:
		case <-ctx.Done():
		}
	}
}

// Ask is one probe.
func (h *HTTP) Ask() {
	begun := time.Now()
	good := false
	if response, err := h.client.Get(h.url); err == nil {
		_, err = io.CopyN(io.Discard, response.Body, 64*1024)
		_ = response.Body.Close()
		good = (err == nil || errors.Is(err, io.EOF)) && response.StatusCode >= 200 && response.StatusCode < 400
	}
	h.lock.Lock()
	defer h.lock.Unlock()
	h.seen = append(h.seen, answer{time.Since(begun), good})
	if len(h.seen) > 1000 {
		h.seen = h.seen[1:]
	}
}

// Take is what was seen since the last call; false when nothing was.
func (h *HTTP) Take() (Answers, bool) {
	now := time.Now()
	h.lock.Lock()
	seen, since := h.seen, h.since
	h.seen, h.since = nil, now
	h.lock.Unlock()
	if len(seen) == 0 {
		return Answers{}, false
	}
	times := make([]time.Duration, 0, len(seen))
	bad := 0
	for _, one := range seen {
		times = append(times, one.took)
		if !one.good {
			bad++
		}
	}
	ratio := float64(bad) / float64(len(seen))
	return Answers{Quantile(times, 0.5), Quantile(times, 0.99), now.Sub(since), ratio}, true
}

// Quantile is the smallest of values that at least the share q of them does not exceed.
func Quantile(values []time.Duration, q float64) time.Duration {
	ordered := slices.Sorted(slices.Values(values))
	return ordered[max(0, int(math.Ceil(q*float64(len(ordered))))-1)]
}
