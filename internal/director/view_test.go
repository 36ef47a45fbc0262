package director

import (
	"net"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"poise/internal/status"
)

// answering is a child that answers every request for a snapshot, and how often it was asked.
func answering(t *testing.T) (*child, *atomic.Int32) {
	left, right := net.Pipe()
	t.Cleanup(func() { left.Close() })
	c := &child{role: "balancer", conn: &conn{Conn: left}, waiting: make(map[uint64]chan message)}
	go c.listen(birth{events: func(status.Event) {}})
	var asked atomic.Int32
	go func() {
		far := &conn{Conn: right}
		for {
			m, err := far.receive()
			if err != nil {
				return
			}
			n := asked.Add(1)
			answer := message{Kind: kindAnswer, ID: m.ID, Snapshot: &status.Snapshot{Time: time.Now(), Totals: status.Totals{Writes: uint64(n)}}}
			if far.send(answer) != nil {
				return
			}
		}
	}()
	return c, &asked
}

// Whatever the balancer says of itself is shown: no field of a snapshot is forgotten on the way.
func TestViewShowsAllOfTheBalancer(t *testing.T) {
	var last status.Snapshot
	fields := reflect.ValueOf(&last).Elem()
	parents := []string{"Node", "Version", "Config", "Elector", "Balancer", "Routers", "Dormant"}
	for field, v := range fields.Fields() {
		if slices.Contains(parents, field.Name) {
			continue
		}
		switch v.Kind() {
		case reflect.String:
			v.SetString("x")
		case reflect.Slice:
			v.Set(reflect.MakeSlice(field.Type, 1, 1))
		default:
			switch p := v.Addr().Interface().(type) {
			case *time.Time:
				*p = time.Now()
			case *status.Totals:
				p.Writes = 1
			default:
				t.Fatalf("what is a %v that is not zero?", field.Type)
			}
		}
	}
	c, _ := answering(t)
	v := view{balancer: witness{source: c, last: &last, begun: time.Now()}}
	shown := reflect.ValueOf(v.snapshot(t.Context(), time.Time{})).Elem()
	for field := range fields.Fields() {
		if !slices.Contains(parents, field.Name) && shown.FieldByIndex(field.Index).IsZero() {
			t.Errorf("%s is not shown", field.Name)
		}
	}
}

func TestViewAsksOnceForAll(t *testing.T) {
	c, asked := answering(t)
	var v view
	v.publish(status.Snapshot{Node: "lb1"}, c, nil)
	begin := time.Now()
	var readers sync.WaitGroup
	for range 50 {
		readers.Go(func() {
			if s := v.snapshot(t.Context(), begin); s.Balancer.Stale || s.Node != "lb1" || s.Totals.Writes == 0 {
				t.Errorf("snapshot %+v", s)
			}
		})
	}
	readers.Wait()
	if n := asked.Load(); n != 1 {
		t.Errorf("the balancer was asked %d times, want once", n)
	}
	// A change of the parent's makes what was said before it old, for those who would take it too.
	v.publish(status.Snapshot{Node: "lb1"}, c, nil)
	if s := v.snapshot(t.Context(), begin); s.Totals.Writes != 2 {
		t.Errorf("after a change the answer is the old one: %+v", s.Totals)
	}
}

func TestViewOfASilentBalancer(t *testing.T) {
	c, _ := answering(t)
	var v view
	v.publish(status.Snapshot{}, c, nil)
	v.snapshot(t.Context(), time.Now())
	c.conn.Close()
	s := v.snapshot(t.Context(), time.Now())
	if !s.Balancer.Stale || s.Balancer.Problem == "" || s.Totals.Writes != 1 {
		t.Errorf("%+v with totals %+v, want stale last words and the reason", s.Balancer, s.Totals)
	}
	v.publish(status.Snapshot{Balancer: status.Balancer{Problem: "died"}}, nil, nil)
	if s := v.snapshot(t.Context(), time.Now()); !s.Balancer.Stale || s.Balancer.Problem != "died" || s.Totals.Writes != 1 {
		t.Errorf("%+v with totals %+v, want stale last words", s.Balancer, s.Totals)
	}
}
