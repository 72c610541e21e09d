package probes

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// proc writes a /proc with a host and the process 42.
func proc(t *testing.T, dir string, busy, idle, ticks, started int) {
	t.Helper()
	write := func(name, content string) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("stat", fmt.Sprintf("cpu %d 0 0 %d 0 0 0 0 0 0\ncpu0 1 1 1 1\n", busy, idle))
	write("meminfo", "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 250 kB\n")
	// A name can hold brackets and spaces.
	write("42/stat", fmt.Sprintf("42 (a) b) S%s %d 0%s %d 0 10 0\n", strings.Repeat(" 0", 10), ticks, strings.Repeat(" 0", 6), started))
}

func TestTheHostIsBusyByWhatChangedSinceTheLastLook(t *testing.T) {
	dir := t.TempDir()
	proc(t, dir, 100, 100, 0, 5)
	host := Host{Proc: dir}
	first, err := host.Look()
	if err != nil || first.CPU != nil || *first.Memory != 0.75 {
		t.Fatal(first, err)
	}
	proc(t, dir, 175, 125, 0, 5)
	if second, _ := host.Look(); *second.CPU != 0.75 {
		t.Error(*second.CPU)
	}
}

func TestAProcessIsMeasuredAgainstItsLimitsAndANewOneBeginsAnew(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	proc(t, dir, 1, 1, 0, 5)
	process := Process{PID: "42", CPUs: 2, Memory: uint64(100 * os.Getpagesize()), Proc: dir}
	if usage, running, err := process.Look(now); usage.CPU != nil || !running || err != nil {
		t.Fatal(usage, running, err)
	}
	proc(t, dir, 1, 1, ticks, 5)
	usage, _, _ := process.Look(now.Add(time.Second))
	if *usage.CPU != 0.5 || *usage.Memory != 0.1 {
		t.Error("one of two cores for one second", *usage.CPU, *usage.Memory)
	}
	proc(t, dir, 1, 1, 9, 6)
	if usage, _, _ := process.Look(now.Add(2 * time.Second)); usage.CPU != nil {
		t.Error("the same number, another process")
	}
}

func TestAProcessThatIsGoneIsUnknownAndNotZero(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	process := Process{PID: file, Proc: "/proc"}
	for _, c := range []struct {
		content string
		running bool
	}{{"", false}, {fmt.Sprintln(os.Getpid()), true}, {"999999999", false}} {
		if c.content != "" {
			if err := os.WriteFile(file, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		usage, running, err := process.Look(time.Now())
		if err != nil || running != c.running || (usage.Memory != nil) != c.running {
			t.Errorf("`%s`: %v %v %v", c.content, usage, running, err)
		}
	}
}

func TestAProbeCountsBadAnswersAndNoAnswersAsErrors(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/503" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer web.Close()
	probe := NewHTTP(web.URL+"/", 5*time.Second)
	if _, any := probe.Take(); any {
		t.Error("nothing was asked: nothing is known")
	}
	probe.Ask()
	good, any := probe.Take()
	if !any || good.ErrorRatio != 0 || good.P50 <= 0 || good.P99 < good.P50 {
		t.Error(good)
	}
	for _, url := range []string{web.URL + "/503", "http://127.0.0.1:1/"} {
		probe := NewHTTP(url, 5*time.Second)
		probe.Ask()
		if bad, _ := probe.Take(); bad.ErrorRatio != 1 {
			t.Error(url, bad)
		}
	}
}

func TestQuantilesAreValuesThatWereSeen(t *testing.T) {
	values := []time.Duration{3, 1, 2, 4}
	if Quantile(values, 0.5) != 2 || Quantile(values, 0.99) != 4 || Quantile(values[:1], 0.5) != 3 {
		t.Error("not so")
	}
}
